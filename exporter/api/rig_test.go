package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/auth"
	"lockstitch/state/catalog"
	"lockstitch/state/definition"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

var testKey = auth.Key{ID: "k1", Secret: []byte("0123456789abcdef0123456789abcdef")}

// rig is the API on a real broker protocol, with the real table of reports, the
// real definitions and a directory as object store. Accounts: acme (client a)
// and other (client b).
type rig struct {
	t       *testing.T
	cluster *kfake.Cluster
	opts    []kgo.Opt
	client  *kgo.Client
	table   *report.Table
	store   objects.Store
	dir     string // of the store
	slices  *sliceList
	cfg     Config
	deps    Deps
	url     string
	ahead   *atomic.Int64 // how far the API's clock is ahead of the machine's
	tokens  map[string]string
	metrics *prometheus.Registry
	handler http.Handler
	doc     *huma.OpenAPI // what answers must be like
}

// sliceList is a catalog of segments that the test has stored.
type sliceList struct {
	refs      []catalog.SliceRef
	removed   string // a segment that counts no more once somebody has listed it
	retention catalog.Retention
}

func (l *sliceList) CatchUp(context.Context) error { return nil }
func (l *sliceList) Retention() catalog.Retention  { return l.retention }
func (l *sliceList) Live(id string) bool {
	return id != l.removed && slices.ContainsFunc(l.refs, func(r catalog.SliceRef) bool { return r.SegmentID == id })
}
func (l *sliceList) Slices(account string, start, _ int64) (out []catalog.SliceRef) {
	for _, r := range l.refs {
		if r.Info.Account == account && r.Info.MaxTime >= start {
			out = append(out, r)
		}
	}
	return out
}

// newRig starts everything; adjust may change configuration and dependencies.
func newRig(t *testing.T, adjust func(*Config, *Deps)) *rig {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "email-events", "lockstitch.reports"), kfake.SeedTopics(1, "definitions"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := &rig{t: t, cluster: c, opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, slices: &sliceList{}, tokens: map[string]string{}, ahead: new(atomic.Int64), metrics: prometheus.NewRegistry()}
	if r.client, err = kgo.NewClient(r.opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	view := r.openTables(r.metrics)
	r.dir = filepath.Join(t.TempDir(), "store")
	if r.store, err = objects.Open(t.Context(), "file://"+r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })

	srv := httptest.NewUnstartedServer(nil)
	r.url = "http://" + srv.Listener.Addr().String()
	r.cfg = Config{
		KafkaTimeout: time.Minute, ActivityTimeout: time.Minute, // no call is refused because the machine is busy
		PublicURL: r.url, SigningKeys: []auth.Key{testKey},
		Clients: []auth.Client{
			{ID: "a", SecretHash: auth.HashSecret("secret-a"), Account: "acme"},
			{ID: "b", SecretHash: auth.HashSecret("secret-b"), Account: "other"},
		},
	}
	r.deps = Deps{
		Reports: r.table, Definitions: view, Catalog: r.slices, Store: r.store, Log: slog.New(slog.DiscardHandler), Registerer: r.metrics,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
		Ends: func(ctx context.Context) ([]report.End, error) {
			ends, err := kafka.Ends(ctx, r.client, "email-events")
			if err != nil {
				return nil, err
			}
			var out []report.End
			for _, e := range ends["email-events"] {
				out = append(out, report.End{Topic: e.Topic, TopicID: e.TopicID, Partition: e.Partition, Offset: e.End})
			}
			return out, nil
		},
	}
	if adjust != nil {
		adjust(&r.cfg, &r.deps)
	}
	r.serve(srv)
	return r
}

// openTables opens the tables that a replica follows.
func (r *rig) openTables(reg prometheus.Registerer) *definition.View {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	if r.table, err = report.Open(r.t.Context(), report.Config{Opts: r.opts, Topic: "lockstitch.reports", Log: log, Registerer: reg}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.table.Close)
	view, err := definition.Open(r.t.Context(), definition.Config{Opts: r.opts, Topic: "definitions", Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(view.Close)
	return view
}

func (r *rig) serve(srv *httptest.Server) {
	r.t.Helper()
	h, err := New(r.cfg, r.deps)
	if err != nil {
		r.t.Fatal(err)
	}
	r.handler, r.doc = h, newTestDocument(r.cfg)
	srv.Config = newTestServer(h, r.deps.Log)
	srv.Start()
	r.t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		srv.Close()
	})
}

// newTestServer has room for all that a test asks for.
func newTestServer(h http.Handler, log *slog.Logger) *http.Server {
	return NewServer(h, NewCallers(512<<20, nil), log)
}

// replica starts a second replica of the same installation.
func (r *rig) replica() *rig {
	r.t.Helper()
	other := *r
	other.deps.Definitions = other.openTables(nil)
	other.deps.Reports, other.deps.Registerer = other.table, nil
	srv := httptest.NewUnstartedServer(nil)
	other.url = "http://" + srv.Listener.Addr().String()
	other.serve(srv)
	return &other
}

// answer is a response read to its end.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) json(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
}

// do sends a request; headers are names and values in turn. client "" sends no
// token.
func (r *rig) do(method, path, client, body string, headers ...string) answer {
	r.t.Helper()
	u := path
	if strings.HasPrefix(path, "/") {
		u = r.url + path
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, u, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if client != "" {
		req.Header.Set("Authorization", "Bearer "+r.token(client))
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return r.send(req)
}

func (r *rig) send(req *http.Request) answer {
	r.t.Helper()
	// Not the default client's transparent decompression, not its redirects.
	return r.read(http.DefaultTransport.RoundTrip(req))
}

// read reads an answer to its end.
func (r *rig) read(resp *http.Response, err error) answer {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{resp, b}
	r.checkDescribed(a)
	return a
}

func (r *rig) token(client string) string {
	r.t.Helper()
	if r.tokens[client] == "" {
		a := r.do("POST", "/oauth/token", "", fmt.Sprintf(`{"grant_type":"client_credentials","client_id":%q,"client_secret":"secret-%s"}`, client, client))
		if a.StatusCode != 200 {
			r.t.Fatalf("token: %d %s", a.StatusCode, a.body)
		}
		var tok Token
		a.json(r.t, &tok)
		r.tokens[client] = tok.AccessToken
	}
	return r.tokens[client]
}

// problem checks that an answer is the named problem.
func (r *rig) problem(a answer, status int, word string) Problem {
	r.t.Helper()
	var p Problem
	if a.StatusCode != status || a.Header.Get("Content-Type") != "application/problem+json" {
		r.t.Fatalf("%d %s %s, want %d %s", a.StatusCode, a.Header.Get("Content-Type"), a.body, status, word)
	}
	a.json(r.t, &p)
	if p.Type != "/problems/"+word || p.Status != status || p.Title == "" || p.Detail == "" {
		r.t.Fatalf("problem %s, want %s", a.body, word)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		r.t.Fatalf("%d %s with Cache-Control %q", status, word, got)
	}
	if status == 429 || status == 503 {
		if a.Header.Get("Retry-After") == "" {
			r.t.Fatalf("%d without Retry-After", status)
		}
	}
	if status == 401 && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
		r.t.Fatalf("401 without WWW-Authenticate")
	}
	return p
}

func (r *rig) define(values ...string) {
	r.t.Helper()
	for _, v := range values {
		sum := sha256.Sum256([]byte(v))
		rec := &kgo.Record{Topic: "definitions", Key: []byte(hex.EncodeToString(sum[:])), Value: []byte(v)}
		if err := r.client.ProduceSync(r.t.Context(), rec).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// undefine takes definitions back.
func (r *rig) undefine(values ...string) {
	r.t.Helper()
	for _, v := range values {
		sum := sha256.Sum256([]byte(v))
		rec := &kgo.Record{Topic: "definitions", Key: []byte(hex.EncodeToString(sum[:]))}
		if err := r.client.ProduceSync(r.t.Context(), rec).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// request asks for an export and returns its status.
func (r *rig) request(client, body string, headers ...string) Status {
	r.t.Helper()
	a := r.do("POST", "/emails/reports", client, body, headers...)
	if a.StatusCode != 202 {
		r.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	var st Status
	a.json(r.t, &st)
	return st
}

func (r *rig) status(client, id string) Status {
	r.t.Helper()
	a := r.do("GET", "/emails/reports/"+id, client, "")
	if a.StatusCode != 200 || a.Header.Get("x-apsis-auth") != "" {
		r.t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
	}
	var st Status
	a.json(r.t, &st)
	return st
}

func (r *rig) delete(client, id string) {
	r.t.Helper()
	if a := r.do("DELETE", "/emails/reports/"+id, client, ""); a.StatusCode != 204 || len(a.body) > 0 {
		r.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
}

// list is the first page of the account's reports.
func (r *rig) list(client string) []*Status {
	r.t.Helper()
	var l ReportList
	r.do("GET", "/emails/reports", client, "").json(r.t, &l)
	return l.Items
}

// complete stores a file for a report as its runner would.
func (r *rig) complete(account, id string, file []byte) {
	r.t.Helper()
	attempt := ulid.Make().String()
	object := "exports/" + account + "/" + id + "/" + attempt + ".csv.gz"
	if err := r.store.Put(r.t.Context(), object, file); err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	now := time.Now().UTC()
	won, err := r.table.WriteResult(r.t.Context(), account, id, report.Result{
		Version: report.Version, Attempt: attempt, At: now, Object: object, Rows: 3,
		Bytes: int64(len(file)), SHA256: hex.EncodeToString(sum[:]), Slices: 2, Expires: now.Add(24 * time.Hour),
	})
	if err != nil || !won {
		r.t.Fatal(won, err)
	}
}

// fail ends a report in an error.
func (r *rig) fail(account, id string, p *report.Problem) {
	r.t.Helper()
	now := time.Now().UTC()
	won, err := r.table.WriteResult(r.t.Context(), account, id, report.Result{
		Version: report.Version, Attempt: ulid.Make().String(), At: now, Problem: p, Expires: now.Add(24 * time.Hour),
	})
	if err != nil || !won {
		r.t.Fatal(won, err)
	}
}

// progress says how far a report is.
func (r *rig) progress(account, id string) {
	r.t.Helper()
	err := r.table.WriteProgress(r.t.Context(), account, id, report.Progress{At: time.Now(), SegmentsTotal: 4, SegmentsDone: 1, Rows: 7, Bytes: 99,
		Waiting: []report.Waiting{{Topic: "email-events", Partition: 1, Offset: 5, Position: 3, Reason: "behind"}}})
	if err != nil {
		r.t.Fatal(err)
	}
}

// recently is a legal body without end.
func recently() string {
	return fmt.Sprintf(`{"start_at":%q}`, time.Now().UTC().Add(-time.Hour).Format(time.RFC3339))
}

func someFile() []byte { return bytes.Repeat([]byte("not really gzip, "), 5000) }
