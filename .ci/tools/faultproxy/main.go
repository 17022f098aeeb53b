// Command faultproxy stands between the replicas and their real parts and does
// what networks and services do on a bad day, when it is told to.
//
//	faultproxy -control ADDR -kafka LISTEN=BROKER … -s3 LISTEN=SERVER
//
// The control listener:
//
//	POST /arm?target=kafka|s3&kind=KIND&n=N[&method=M][&for=D]   the next N times, or for so long
//	POST /disarm                                                 no faults from now on
//	GET  /counts                                                 {"s3 PUT 500": 2, …}: what has happened
//
// Kinds of kafka: "endtxn", the reply to a commit is lost after the broker has
// committed (transactional ids that begin with -prefix only); "hold", nothing
// passes. Kinds of s3: see s3.go.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// faults are those that are armed and those that have happened.
type faults struct {
	mu     sync.Mutex
	armed  []*fault
	counts map[string]int
}

// fault is one armed kind: it strikes left times, or until its end.
type fault struct {
	target, kind, method string
	left                 int
	until                time.Time
	length               time.Duration
}

func (f *fault) over(now time.Time) bool {
	return f.left <= 0 && !now.Before(f.until)
}

// strike says whether a fault of the target is due, uses it up once and counts it.
func (f *faults) strike(target, method string, kinds ...string) (fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, a := range f.armed {
		if a.target != target || a.over(now) || a.method != "" && a.method != method {
			continue
		}
		for _, k := range kinds {
			if k == a.kind {
				a.left--
				f.counts[strings.Join(strings.Fields(target+" "+a.method+" "+a.kind), " ")]++
				return *a, true
			}
		}
	}
	return fault{}, false
}

// holding says whether a kind of the target holds at this time, without counting.
func (f *faults) holding(target, kind string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.armed {
		if a.target == target && a.kind == kind && time.Now().Before(a.until) {
			return true
		}
	}
	return false
}

func (f *faults) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[what]++
}

func (f *faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.URL.Path {
	case "/arm":
		n, _ := strconv.Atoi(q.Get("n"))
		d, _ := time.ParseDuration(q.Get("for"))
		f.armed = append(f.armed, &fault{target: q.Get("target"), kind: q.Get("kind"), method: q.Get("method"),
			left: n, length: d, until: time.Now().Add(d)})
	case "/disarm":
		f.armed = nil
	case "/counts":
		_ = json.NewEncoder(w).Encode(f.counts)
	default:
		http.NotFound(w, r)
	}
}

// pairs is a flag LISTEN=UPSTREAM that may be repeated.
type pairs [][2]string

func (p *pairs) String() string { return fmt.Sprint(*p) }

func (p *pairs) Set(s string) error {
	listen, upstream, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("want LISTEN=UPSTREAM")
	}
	*p = append(*p, [2]string{listen, upstream})
	return nil
}

func main() {
	var brokers, servers pairs
	control := flag.String("control", "", "address of the control listener")
	prefix := flag.String("prefix", "lockstitch", "whose commits lose their replies")
	flag.Var(&brokers, "kafka", "LISTEN=BROKER, once for each broker")
	flag.Var(&servers, "s3", "LISTEN=SERVER")
	flag.Parse()
	f := &faults{counts: make(map[string]int)}
	failed := make(chan error)
	for i, p := range brokers {
		l := listen(p[0])
		k := &kafkaProxy{faults: f, name: "broker" + strconv.Itoa(i+1), upstream: p[1], prefix: *prefix}
		go func() { failed <- k.serve(l) }()
	}
	for _, p := range servers {
		l := listen(p[0])
		go func() { failed <- http.Serve(l, newS3Proxy(f, p[1])) }()
	}
	l := listen(*control)
	go func() { failed <- http.Serve(l, f) }()
	fmt.Fprintln(os.Stderr, <-failed)
	os.Exit(1)
}

func listen(addr string) net.Listener {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return l
}
