package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Calls are counted by account, whatever they ask for.
func TestCallsOfAnAccount(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("")(c, d)
		c.Limits.CallsPerMinute = 1
	})
	r.list("a")
	for path, item := range r.doc.Paths {
		parts := strings.Split(path, "/")
		for i := range parts {
			if strings.HasPrefix(parts[i], "{") {
				parts[i] = "x"
			}
		}
		for method, op := range operationsOf(item) {
			if len(op.Security) == 0 {
				continue
			}
			r.problem(r.do(method, strings.Join(parts, "/"), "a", ""), 429, "rate-limit")
		}
	}
	if a := r.do("GET", "/emails/reports", "b", ""); a.StatusCode != 200 {
		t.Errorf("another account: %d %s", a.StatusCode, a.body)
	}
}

// Calls that write for all replicas are fewer than those that ask.
func TestWritesOfAnAccount(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("")(c, d)
		c.Limits.CallsPerMinute = 2 * callsToADearOne
	})
	const path = "/emails/rolling-exports/x"
	r.put("a", "x", `{"every":"PT1M","start":"now"}`, 201)
	for _, what := range []string{"/pause", "/resume"} {
		if a := r.do("POST", path+what, "a", ""); a.StatusCode != 204 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	for _, c := range []struct{ method, path string }{
		{"POST", path + "/pause"}, {"POST", path + "/resume"}, {"DELETE", path}, {"DELETE", "/emails/reports/x"},
	} {
		r.problem(r.do(c.method, c.path, "a", ""), 429, "rate-limit")
	}
	if a := r.do("GET", path, "a", ""); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	r.problem(r.do("DELETE", path, "b", ""), 404, "not-found")
}

// slowSlices is a catalog that catches up when it is told to.
type slowSlices struct {
	catalogSlices
	asked chan struct{}
	goOn  chan struct{}
}

type catalogSlices interface{ Slices }

func (s slowSlices) CatchUp(ctx context.Context) error {
	s.asked <- struct{}{}
	select {
	case <-s.goOn:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Of the calls for activities, which read what is stored, an account has few under
// way, and few in a minute.
func TestActivitiesOfAnAccount(t *testing.T) {
	slow := slowSlices{asked: make(chan struct{}), goOn: make(chan struct{})}
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("")(c, d)
		c.Limits.CallsPerMinute = callsToADearOne * (activitiesAtOnce + 1)
		slow.catalogSlices = d.Catalog
		d.Catalog = slow
	})
	r.define(`{"kind":"section","account_id":"acme","discriminator":"s1","name":"n"}`, `{"kind":"section","account_id":"other","discriminator":"s1","name":"n"}`)
	const path = "/emails/sections/s1/activities"
	r.token("a")
	r.token("b")
	answers := make(chan answer)
	begin := func(client string) {
		go func() { answers <- r.do("GET", path, client, "") }()
		<-slow.asked
	}
	for range activitiesAtOnce {
		begin("a")
	}
	r.problem(r.do("GET", path, "a", ""), 429, "rate-limit")
	begin("b")
	close(slow.goOn)
	for range activitiesAtOnce + 1 {
		if a := <-answers; a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	r.problem(r.do("GET", path+"/x", "a", ""), 429, "rate-limit") // too many in a minute
	begin("b")
	<-answers
}

// slowReader takes an answer when it is told to.
type slowReader struct {
	http.ResponseWriter
	asked chan struct{}
	goOn  chan struct{}
}

func (s slowReader) Write(b []byte) (int, error) {
	s.asked <- struct{}{}
	<-s.goOn
	return s.ResponseWriter.Write(b)
}

// Lists hold whole requests until their reader has taken them: an account has few
// under way, of reports and of rolling exports together.
func TestListsOfAnAccount(t *testing.T) {
	r := newRig(t, nil)
	for _, client := range []string{"a", "b"} {
		r.put(client, "x", `{"every":"P1D","start":"now"}`, 201)
	}
	r.step("acme", "x", []byte("a file"), nil)
	r.step("acme", "x", []byte("another"), nil)
	paths := []string{"/emails/reports", "/emails/rolling-exports", "/emails/rolling-exports/x/files"}
	asked, goOn := make(chan struct{}), make(chan struct{})
	var readers sync.WaitGroup
	for i := range listsAtOnce {
		req := httptest.NewRequestWithContext(t.Context(), "GET", paths[i%len(paths)], nil)
		req.Header.Set("Authorization", "Bearer "+r.token("a"))
		readers.Go(func() { r.handler.ServeHTTP(slowReader{httptest.NewRecorder(), asked, goOn}, req) })
		<-asked
	}
	if p := r.files("a", "x", "?wait=60"); len(p.Items) != 1 || p.Items[0].Number != 1 {
		t.Errorf("a call that may wait, beside those: %d files", len(p.Items))
	}
	for _, path := range paths {
		r.problem(r.do("GET", path, "a", ""), 429, "rate-limit")
		if a := r.do("GET", path, "b", ""); a.StatusCode != 200 {
			t.Errorf("another account: %d %s", a.StatusCode, a.body)
		}
	}
	close(goOn)
	readers.Wait()
	for _, path := range paths {
		if a := r.do("GET", path, "a", ""); a.StatusCode != 200 {
			t.Errorf("behind those: %d %s", a.StatusCode, a.body)
		}
	}
	if p := r.files("a", "x", "?wait=60"); len(p.Items) != 2 {
		t.Errorf("a call that may wait, behind those: %d files", len(p.Items))
	}
}

// watchedReports tell when somebody begins to wait for a change.
type watchedReports struct {
	Reports
	waits chan struct{}
}

func (w watchedReports) Changed() <-chan struct{} {
	w.waits <- struct{}{}
	return w.Reports.Changed()
}

// So many calls of an account may wait for a file, and no more.
func TestWaitingCallsOfAnAccount(t *testing.T) {
	watched := watchedReports{waits: make(chan struct{}, 1)}
	stopping, most := make(chan struct{}), waitingForAnOrder
	r := newRig(t, func(c *Config, d *Deps) {
		c.Limits.RollingExports = 1
		watched.Reports, d.Stopping = d.Reports, stopping
		d.Reports = watched
	})
	const path = "/emails/rolling-exports/x/files"
	r.put("a", "x", `{"every":"P1D","start":"now"}`, 201)
	r.put("b", "x", `{"every":"P1D","start":"now"}`, 201)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	answers := make(chan int)
	begin := func(client string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+path+"?wait=60", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.token(client))
		go func() {
			resp, err := tr.RoundTrip(req)
			if err != nil {
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
		<-watched.waits
	}
	for range most {
		begin("a")
	}
	r.problem(r.do("GET", path+"?wait=1", "a", ""), 429, "rate-limit")
	begin("b")
	if a := r.do("GET", path, "a", ""); a.StatusCode != 200 { // it does not wait
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	close(stopping)
	for range most + 1 {
		if got := <-answers; got != 200 {
			t.Errorf("a call that waited: %d", got)
		}
	}
}
