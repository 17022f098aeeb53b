package definition

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func cluster(t *testing.T) []kgo.Opt {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "definitions"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
}

func open(t *testing.T, opts []kgo.Opt) *View {
	t.Helper()
	v, err := Open(t.Context(), Config{Opts: opts, Topic: "definitions", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// produce writes records, in a transaction ended by end where an id is given.
func produce(t *testing.T, opts []kgo.Opt, id string, end kgo.TransactionEndTry, records ...*kgo.Record) {
	t.Helper()
	all := append([]kgo.Opt{kgo.DefaultProduceTopic("definitions")}, opts...)
	if id != "" {
		all = append(all, kgo.TransactionalID(id))
	}
	cl, err := kgo.NewClient(all...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if id != "" {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if id != "" {
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
}

func record(key, value string) *kgo.Record {
	r := &kgo.Record{Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	return r
}

func sectionJSON(discriminator, name string) string {
	return fmt.Sprintf(`{"kind":"section","account_id":"a","discriminator":%q,"name":%q}`, discriminator, name)
}

func TestViewCatchesUp(t *testing.T) {
	opts := cluster(t)
	produce(t, opts, "", true, record("1", sectionJSON("s1", "One")), record("2", sectionJSON("s2", "Two")), record("3", "broken"))
	v := open(t, opts)
	if err := v.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(v.Account("a").Sections()); got != "[{s1 One} {s2 Two}]" {
		t.Errorf("sections %s", got)
	}
	for i := range 20 {
		name := fmt.Sprint("name ", i)
		changed := v.tail.Changed()
		produce(t, opts, "", true, record("1", sectionJSON("s1", name)), record("2", ""))
		if err := v.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-changed
		if got := fmt.Sprint(v.Account("a").Sections()); got != "[{s1 "+name+"}]" {
			t.Fatalf("after an acknowledged change: %s", got)
		}
	}
	if got := v.tail.Position(0); got != 43 {
		t.Errorf("position %d, want 43", got)
	}
}

func TestViewPassesTransactions(t *testing.T) {
	opts := cluster(t)
	produce(t, opts, "x", kgo.TryCommit, record("1", sectionJSON("s1", "committed")), record("2", sectionJSON("s2", "committed")))
	produce(t, opts, "y", kgo.TryAbort, record("1", sectionJSON("s1", "aborted")), record("2", ""), record("3", "broken"))
	v := open(t, opts)
	if err := v.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(v.Account("a").Sections()); got != "[{s1 committed} {s2 committed}]" {
		t.Errorf("sections %s", got)
	}
	// Once more, with the view already at the end.
	produce(t, opts, "y", kgo.TryAbort, record("1", sectionJSON("s1", "aborted")))
	if err := v.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := v.tail.Position(0); got != 9 {
		t.Errorf("position %d, want 9: 2 records, a marker, 3 aborted, a marker, 1 aborted, a marker", got)
	}
}

func TestOpenWithoutTheTopic(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := Open(ctx, Config{Opts: cluster(t), Topic: "absent"})
	if err == nil {
		t.Fatal("opened a topic that does not exist")
	}
}
