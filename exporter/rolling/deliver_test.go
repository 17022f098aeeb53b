package rolling

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/state/objects"
)

// delivery is a finished file in a store, and a destination: a directory, or
// what LOCKSTITCH_TEST_STORE_URL names.
type delivery struct {
	t         *testing.T
	src, dest objects.Store
	file      File
	data      []byte
}

func newDelivery(t *testing.T) *delivery {
	t.Helper()
	open := func(url string) objects.Store {
		s, err := objects.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	url := os.Getenv("LOCKSTITCH_TEST_STORE_URL")
	if url == "" {
		url = "file://" + t.TempDir()
	}
	d := &delivery{t: t, src: open("file://" + t.TempDir()), dest: open(url), data: make([]byte, 100_000)}
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(d.data)
	d.file = File{
		Account: "å/" + ulid.Make().String(), Name: "hourly", Order: "01JORDER", Number: 17, Object: "exports/a/b/c.csv.gz",
		PeriodStart: midnight.Add(23 * time.Hour), PeriodEnd: midnight.Add(24 * time.Hour), From: "f<&>", To: "t",
		Rows: 12, Bytes: int64(len(d.data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(d.data)), CompleteThrough: midnight.Add(24 * time.Hour),
	}
	if err := d.src.Put(t.Context(), d.file.Object, d.data); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *delivery) deliver() error { return Deliver(d.t.Context(), d.dest, d.src, d.file) }

// there lists what the destination has of the account, without its part.
func (d *delivery) there() map[string]string {
	d.t.Helper()
	out := make(map[string]string)
	prefix := objects.Part(d.file.Account) + "/"
	if err := d.dest.List(d.t.Context(), prefix, func(i objects.Info) error {
		r, err := d.dest.Open(d.t.Context(), i.Name, 0, -1)
		if err != nil {
			return err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		out[strings.TrimPrefix(i.Name, prefix)] = string(b)
		return err
	}); err != nil {
		d.t.Fatal(err)
	}
	return out
}

const (
	fileName     = "hourly/01JORDER/2026/05/01/hourly-17.csv.gz"
	manifestName = "hourly/01JORDER/2026/05/01/hourly-17.json"
)

// whole fails unless exactly the file and its manifest are there.
func (d *delivery) whole() {
	d.t.Helper()
	want := fmt.Sprintf(`{
  "version": 1,
  "number": 17,
  "file": "hourly-17.csv.gz",
  "order_id": "01JORDER",
  "name": "hourly",
  "period_start": "2026-05-01T23:00:00.000Z",
  "period_end": "2026-05-02T00:00:00.000Z",
  "cursor": {
    "from": "f<&>",
    "to": "t"
  },
  "rows": 12,
  "bytes": 100000,
  "sha256": "%s",
  "complete_through": "2026-05-02T00:00:00.000Z"
}
`, d.file.SHA256)
	there := d.there()
	if len(there) != 2 || there[fileName] != string(d.data) || there[manifestName] != want {
		for name, data := range there {
			d.t.Logf("%s: %d bytes, %.500q", name, len(data), data)
		}
		d.t.Error("want the file and its manifest")
	}
}

func TestDeliver(t *testing.T) {
	d := newDelivery(t)
	for range 2 { // again: without effect
		if err := d.deliver(); err != nil {
			t.Fatal(err)
		}
		d.whole()
	}
	// Whoever loads the files may take them away; they do not come back.
	if err := d.dest.Delete(t.Context(), objects.Part(d.file.Account)+"/"+fileName); err != nil {
		t.Fatal(err)
	}
	if err := d.deliver(); err != nil {
		t.Fatal(err)
	}
	if there := d.there(); len(there) != 1 {
		t.Errorf("delivered again: %d objects", len(there))
	}
}

func TestPathsOfFiles(t *testing.T) {
	for want, f := range map[string]File{
		"acme/daily/O/2026/05/01/daily-1":             {Account: "acme", Name: "daily", Order: "O", Number: 1, PeriodStart: midnight, PeriodEnd: midnight.Add(24 * time.Hour)},
		"acme/m/O/2026/05/01/m-1234567":               {Account: "acme", Name: "m", Order: "O", Number: 1234567, PeriodStart: midnight, PeriodEnd: midnight.Add(time.Minute)},
		"%2E./m/O/2026/04/30/m-1":                     {Account: "..", Name: "m", Order: "O", Number: 1, PeriodEnd: midnight},
		"a%2Fb%20%C3%A5/m/O/2026/05/02/m-2":           {Account: "a/b å", Name: "m", Order: "O", Number: 2, PeriodEnd: midnight.Add(25 * time.Hour)},
		"acme/of%2Fothers/O/2026/05/01/of%2Fothers-1": {Account: "acme", Name: "of/others", Order: "O", Number: 1, PeriodEnd: midnight.Add(time.Hour)},
	} {
		if got := f.path(); got != want {
			t.Errorf("path %s, want %s", got, want)
		}
	}
}

func TestDeliverOverwritesNothing(t *testing.T) {
	for _, name := range []string{fileName, manifestName} {
		for what, other := range map[string]func(*delivery) []byte{
			"other":  func(d *delivery) []byte { return bytes.Repeat([]byte("x"), len(d.data)) },
			"empty":  func(*delivery) []byte { return nil },
			"longer": func(d *delivery) []byte { return append(append([]byte{}, d.data...), 'x') },
		} {
			d := newDelivery(t)
			full := objects.Part(d.file.Account) + "/" + name
			if err := d.dest.Put(t.Context(), full, other(d)); err != nil {
				t.Fatal(err)
			}
			var taken *OccupiedError
			if err := d.deliver(); !errors.As(err, &taken) || taken.Object != full {
				t.Errorf("%s %s: %v", what, name, err)
			}
			if there := d.there(); len(there) != 1 || there[name] != string(other(d)) {
				t.Errorf("%s %s: %d objects", what, name, len(there))
			}
		}
	}
}

// TestDeliverKnowsAnOlderManifest: the texts of cursors depend on the signing
// keys, and a delivery may be repeated after these were changed.
func TestDeliverKnowsAnOlderManifest(t *testing.T) {
	d := newDelivery(t)
	if err := d.deliver(); err != nil {
		t.Fatal(err)
	}
	from, to := d.file.From, d.file.To
	d.file.From, d.file.To = "f2", "t2"
	if err := d.deliver(); err != nil {
		t.Fatal(err)
	}
	d.file.From, d.file.To = from, to
	d.whole()
	var taken *OccupiedError
	for _, change := range []func(*File){
		func(f *File) { f.Bytes-- },
		func(f *File) { f.SHA256 = strings.Repeat("0", 64) },
	} {
		other := d.file
		change(&other)
		if err := Deliver(t.Context(), d.dest, d.src, other); !errors.As(err, &taken) {
			t.Errorf("the manifest of another file counts: %v", err)
		}
	}
}

func TestDeliverRefusesAManifestOfAnotherVersion(t *testing.T) {
	d := newDelivery(t)
	d.file.Account = "acme-" + ulid.Make().String()
	m, err := d.file.manifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.dest.Put(t.Context(), d.file.path()+".json", bytes.Replace(m, []byte(`"version": 1`), []byte(`"version": 2`), 1)); err != nil {
		t.Fatal(err)
	}
	if err := d.deliver(); err == nil || !strings.Contains(err.Error(), d.file.path()+".json has version 2, this program knows 1") {
		t.Errorf("delivered: %v", err)
	}
}

func TestDeliverRefusesADamagedFile(t *testing.T) {
	for what, change := range map[string]func(*File){
		"digest": func(f *File) { f.SHA256 = strings.Repeat("0", 64) },
		"short":  func(f *File) { f.Bytes++ },
		"long":   func(f *File) { f.Bytes-- },
		"gone":   func(f *File) { f.Object = "exports/a/b/gone" },
	} {
		d := newDelivery(t)
		change(&d.file)
		var damaged *DamagedError
		if err := d.deliver(); !errors.As(err, &damaged) || damaged.Object != d.file.Object {
			t.Errorf("%s: %v", what, err)
		}
		if there := d.there(); len(there) != 0 {
			t.Errorf("%s: %d objects", what, len(there))
		}
	}
}

func TestDeliverAtTheSameTime(t *testing.T) {
	d := newDelivery(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := d.deliver(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.whole()
}

// TestDeliverCrashesAtEveryStep lets the process die before or after each of its
// operations on the stores; a repetition must find or make exactly one whole
// file and one manifest.
func TestDeliverCrashesAtEveryStep(t *testing.T) {
	for n := 0; ; n++ {
		d := newDelivery(t)
		life := &life{left: n}
		src, dest := d.src, d.dest
		d.src, d.dest = &mortal{src, life, t}, &mortal{dest, life, t}
		err := d.deliver()
		d.src, d.dest = src, dest
		there := d.there()
		if data, ok := there[fileName]; ok && data != string(d.data) {
			t.Errorf("step %d: half a file is visible, %d bytes", n, len(data))
		}
		if _, ok := there[manifestName]; ok && there[fileName] == "" {
			t.Errorf("step %d: a manifest without its file", n)
		}
		if err := d.deliver(); err != nil {
			t.Errorf("step %d: the repetition: %v", n, err)
		}
		d.whole()
		if err == nil {
			if n < 12 {
				t.Fatalf("only %d steps", n)
			}
			return
		}
	}
}

// overtaken is a destination where something happens while a file is copied to it, or one
// that is there is read.
type overtaken struct {
	objects.Store
	meanwhile func()
}

func (o *overtaken) Create(ctx context.Context, name string) (objects.Writer, error) {
	w, err := o.Store.Create(ctx, name)
	return &overtakenWriter{w, o}, err
}

func (o *overtaken) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := o.Store.Open(ctx, name, off, n)
	if f := o.meanwhile; f != nil && err == nil && strings.HasSuffix(name, ".csv.gz") {
		o.meanwhile = nil
		f()
	}
	return r, err
}

type overtakenWriter struct {
	objects.Writer
	at *overtaken
}

func (w *overtakenWriter) Write(p []byte) (int, error) {
	if f := w.at.meanwhile; f != nil {
		w.at.meanwhile = nil
		f()
	}
	return w.Writer.Write(p)
}

// TestDeliverBringsNothingBack: what another replica has delivered, and was taken away
// since, does not come back from one that stood still while it copied.
func TestDeliverBringsNothingBack(t *testing.T) {
	d := newDelivery(t)
	dest := d.dest
	slow := &overtaken{Store: dest, meanwhile: func() {
		if err := Deliver(t.Context(), dest, d.src, d.file); err != nil {
			t.Error(err)
		}
		d.whole()
		if err := dest.Delete(t.Context(), objects.Part(d.file.Account)+"/"+fileName); err != nil {
			t.Error(err)
		}
	}}
	d.dest = slow
	if err := d.deliver(); err != nil {
		t.Fatal(err)
	}
	if there := d.there(); slow.meanwhile != nil || len(there) != 1 || there[manifestName] == "" {
		t.Errorf("%d objects, want the manifest alone", len(there))
	}
}

// TestDeliverLeavesNoManifestAlone: another replica has delivered the file while this one
// still looked whether what a crash had left was whole, and both were taken away.
func TestDeliverLeavesNoManifestAlone(t *testing.T) {
	d := newDelivery(t)
	prefix := objects.Part(d.file.Account) + "/"
	take := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := d.dest.Delete(t.Context(), prefix+name); err != nil {
				t.Error(err)
			}
		}
	}
	if err := d.deliver(); err != nil {
		t.Fatal(err)
	}
	take(manifestName)
	dest := d.dest
	slow := &overtaken{Store: dest, meanwhile: func() {
		if err := Deliver(t.Context(), dest, d.src, d.file); err != nil {
			t.Error(err)
		}
		d.whole()
		take(manifestName, fileName)
	}}
	d.dest = slow
	if err := d.deliver(); !errors.Is(err, objects.ErrNotExist) {
		t.Errorf("%v, want that the file is gone", err)
	}
	if there := d.there(); slow.meanwhile != nil || len(there) != 0 {
		t.Errorf("%v", there)
	}
}

var errDead = errors.New("the process has died")

// life counts down; at 0 everything fails.
type life struct {
	mu   sync.Mutex
	left int
}

func (l *life) step() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left <= 0 {
		return errDead
	}
	l.left--
	return nil
}

// during does something that is cut off by death before it or after it: then it
// is done, and nobody learns.
func (l *life) during(f func() error) error {
	if err := l.step(); err != nil {
		return err
	}
	err := f()
	if dead := l.step(); dead != nil {
		return dead
	}
	return err
}

type mortal struct {
	objects.Store
	life *life
	t    *testing.T
}

func (m *mortal) Put(ctx context.Context, name string, data []byte) error {
	return m.life.during(func() error { return m.Store.Put(ctx, name, data) })
}

func (m *mortal) Stat(ctx context.Context, name string) (info objects.Info, err error) {
	err = m.life.during(func() (err error) { info, err = m.Store.Stat(ctx, name); return err })
	return info, err
}

func (m *mortal) Open(ctx context.Context, name string, off, n int64) (r io.ReadCloser, err error) {
	if err := m.life.step(); err != nil {
		return nil, err
	}
	return m.Store.Open(ctx, name, off, n)
}

func (m *mortal) Create(ctx context.Context, name string) (objects.Writer, error) {
	if err := m.life.step(); err != nil {
		return nil, err
	}
	w, err := m.Store.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	m.t.Cleanup(w.Abort)
	return &mortalWriter{w, m.life}, nil
}

type mortalWriter struct {
	objects.Writer
	life *life
}

func (w *mortalWriter) Write(p []byte) (int, error) {
	if err := w.life.step(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (w *mortalWriter) Commit() error { return w.life.during(w.Writer.Commit) }

// Abort is not called by the dead.
func (w *mortalWriter) Abort() {
	if w.life.step() == nil {
		w.Writer.Abort()
	}
}
