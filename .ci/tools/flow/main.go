// Command flow produces events at a steady rate until SIGTERM. While the brokers
// are away it falls behind, and makes that good as fast as they take it afterwards:
// sources keep what they could not send. It ends when everything is acknowledged.
//
// Event number n has the correlation id "e-n" and the key "profile-k", where k is
// n*7919 modulo the number of profiles, so that who reads a row can tell whether
// it is right. One in 50 is sent again right away, one record in 5000 is broken.
//
// Every second, and at the end, it prints what it has done as one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const section = "usercreated.sections.europe-r6tz73a27t" // that of `lockstitch sample`

type flow struct {
	cl       *kgo.Client
	account  string
	profiles int

	events, retries, broken int          // produced
	acked                   atomic.Int64 // records of all three kinds
}

func main() {
	brokers := flag.String("brokers", "", "a broker, host:port")
	account := flag.String("account", "acme", "account of the events")
	rate := flag.Int("rate", 3000, "events per second")
	profiles := flag.Int("profiles", 10_000, "profiles to choose from")
	flag.Parse()
	cl, err := kgo.NewClient(kgo.SeedBrokers(*brokers), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DefaultProduceTopic("email-events"),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(50*time.Millisecond), kgo.MaxBufferedRecords(50_000),
		kgo.RetryBackoffFn(func(int) time.Duration { return 250 * time.Millisecond }), kgo.DisableClientMetrics())
	if err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := &flow{cl: cl, account: *account, profiles: *profiles}
	tick, told := time.NewTicker(10*time.Millisecond), time.Now()
	start := time.Now()
	for ctx.Err() == nil {
		due := int(time.Since(start).Seconds() * float64(*rate))
		for f.events < due && ctx.Err() == nil {
			f.next()
			if time.Since(told) > time.Second {
				f.tell(due - f.events)
				told = time.Now()
			}
		}
		if time.Since(told) > time.Second {
			f.tell(0)
			told = time.Now()
		}
		<-tick.C
	}
	if err := cl.Flush(context.Background()); err != nil {
		fail(err)
	}
	f.tell(0)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// tell prints what was produced; behind is how many events are due and not produced yet.
func (f *flow) tell(behind int) {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]int64{"events": int64(f.events), "retries": int64(f.retries), "broken": int64(f.broken),
		"acked": f.acked.Load(), "behind": int64(behind)})
}

func (f *flow) next() {
	n := f.events
	f.events++
	key := fmt.Appendf(nil, "profile-%d", n*7919%f.profiles)
	value := fmt.Appendf(nil, `{"correlation_id":"e-%d","type":"CLICKED","account_id":%q,"section":"`+section+`","activity_id":%d,`+
		`"activity_name":"Mailing %d","sender":"news@example.com","subject":"Your order, and what comes next","event_time":%d,`+
		`"device":"MOBILE","location":"SE","link_id":%d,"link_url":"https://example.com/offer/%d?from=mail","link_title":"Offer %d"}`,
		n, f.account, 7000+n%20, n%20, time.Now().UnixMilli(), n%5, n%5, n%5)
	f.produce(key, value)
	if n%50 == 0 {
		f.retries++
		f.produce(key, value)
	}
	if n%5000 == 0 {
		f.broken++
		f.produce(key, []byte(`{"type":"SENT"`))
	}
}

func (f *flow) produce(key, value []byte) {
	f.cl.Produce(context.Background(), &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
		if err != nil { // brokers that are away are waited for
			fail(err)
		}
		f.acked.Add(1)
	})
}
