// Package api is the HTTP API of contract section 3: it authenticates, limits
// and validates, turns an accepted request into a frozen report.Question, and
// answers about reports, their files and the activities.
//
// The way of a call: server.go (time limits of the connection) → callers.go (room for
// it) → route.go (panics, metrics, method, credential) → one handler:
//
//	token.go       POST   /oauth/token
//	submit.go      POST   /emails/reports        request.go, resolve.go, window.go, after.go
//	reports.go     GET    /emails/reports, …/{report_id}, DELETE   status.go
//	download.go    GET    …/{report_id}/file     file.go
//	rolling.go     /emails/rolling-exports     rollingbody.go, rollingfiles.go
//	activities.go  GET    /emails/sections/…     summary.go, share.go
//	docs.go        GET    /openapi.json, .yaml, /docs   openapi.go
//
// Invariants:
//   - Every answer that is not a success is a Problem of the table in problem.go.
//   - No answer about a report is stale: the account's partition of the reports
//     is caught up to its end before each, or the answer is 503.
//   - URLs are built from Config.PublicURL; what a request says about hosts is
//     never used.
//   - A handler trusts no text of a request: ids that do not parse are unknown.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"lockstitch/exporter/auth"
	"lockstitch/exporter/cursor"
	"lockstitch/exporter/limits"
	"lockstitch/state/catalog"
	"lockstitch/state/definition"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// Reports is the table of requests and results; *report.Table is one.
type Reports interface {
	// CatchUp makes everything visible that was acknowledged before the call
	// about an account's reports.
	CatchUp(ctx context.Context, account string) error
	Submit(ctx context.Context, req *report.Request, maxPending int) (*report.Report, error)
	Sizes(account string, p report.Plan) report.Sizes
	Get(account, id string) (*report.Report, bool)
	ByKey(account, key string, at time.Time) (*report.Report, bool)
	List(account string, limit int, pageToken string) (items []*report.Report, next string, err error)
	Cancel(ctx context.Context, account, id string) error
	Orders
}

// Definitions are the definitions of all accounts; *definition.View is one.
type Definitions interface {
	CatchUp(ctx context.Context) error
	Account(id string) *definition.Account
}

// Slices is the part of the catalog that activities are read from;
// *catalog.View is one.
type Slices interface {
	CatchUp(ctx context.Context) error
	Slices(account string, start, end int64) []catalog.SliceRef
	// Live tells whether a segment is one of those that count.
	Live(segmentID string) bool
	// Retention is what retention has removed and is about to.
	Retention() catalog.Retention
}

// Deps are what the API works with. All from Destination on may be missing.
type Deps struct {
	Reports     Reports
	Definitions Definitions
	Catalog     Slices
	Store       objects.Store
	// Ends reads the high watermarks of all partitions of all event topics; an
	// error if any of them cannot be read.
	Ends func(ctx context.Context) ([]report.End, error)
	// Destination says whether an account may have rolling exports written to a
	// destination; nil: there is none.
	Destination func(account, name string) bool
	// Stopping is closed when no more calls are taken: those that wait for
	// something end.
	Stopping   <-chan struct{}
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// server holds what the handlers share.
type server struct {
	cfg       Config
	deps      Deps
	log       *slog.Logger
	now       func() time.Time
	authority *auth.Authority
	cursors   *cursor.Codec
	metrics   *metrics

	// By client:
	tokenCalls   *limits.PerMinute // with its secret
	wrongSecrets *limits.PerMinute // with another; the client need not exist
	// By account:
	calls      *limits.PerMinute // all but token calls and downloads
	dear       *limits.PerMinute // those that cost much
	exports    *limits.PerMinute
	downloads  *limits.PerMinute
	transfers  *limits.AtOnce // downloads under way
	lists      *limits.AtOnce // lists of reports, of rolling exports and of their files
	activities *limits.AtOnce // calls for activities
	waiting    *limits.AtOnce // calls that wait for a file

	summaries *summaryCache
	sums      *memory       // of calls for activities
	reads     chan struct{} // holds a token for each slice being read for activities
}

// New checks the configuration and makes the handler of the API listener. It
// starts nothing and asks nobody.
func New(cfg Config, deps Deps) (http.Handler, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := deps.complete(); err != nil {
		return nil, err
	}
	authority, err := auth.New(auth.Config{
		Clients: cfg.Clients, Keys: cfg.SigningKeys, Issuers: cfg.Issuers,
		HTTP: cfg.IssuerHTTP, Now: deps.Now,
	})
	if err != nil {
		return nil, err
	}
	s := &server{
		cfg: cfg, deps: deps, log: deps.Log, now: deps.Now,
		authority: authority, cursors: cursor.New(cfg.SigningKeys), metrics: newMetrics(deps.Registerer, cfg.Limits.AllReportsBytes),
		tokenCalls:   limits.NewPerMinute(cfg.Limits.TokensPerMinute),
		wrongSecrets: limits.NewPerMinute(cfg.Limits.TokensPerMinute),
		calls:        limits.NewPerMinute(cfg.Limits.CallsPerMinute),
		dear:         limits.NewPerMinute(max(1, cfg.Limits.CallsPerMinute/callsToADearOne)),
		exports:      limits.NewPerMinute(cfg.Limits.ExportsPerMinute),
		downloads:    limits.NewPerMinute(cfg.Limits.DownloadsPerMinute),
		transfers:    limits.NewAtOnce(cfg.Limits.DownloadsPerMinute),
		lists:        limits.NewAtOnce(listsAtOnce),
		activities:   limits.NewAtOnce(activitiesAtOnce),
		waiting:      limits.NewAtOnce(waitingForAnOrder * cfg.Limits.RollingExports),
		summaries:    newSummaryCache(cfg.ActivityCacheBytes),
		sums:         newMemory(cfg.ActivitySumBytes),
		reads:        make(chan struct{}, cfg.ActivityReads),
	}
	mux := http.NewServeMux()
	doc := newDocument(cfg)
	routes := &router{server: s, mux: mux, adapter: humago.NewAdapter(mux, ""), doc: doc, methods: make(map[string][]string)}
	for _, op := range s.operations(doc.Components.Schemas) {
		routes.add(op)
	}
	routes.finish()
	return s.outermost(mux), nil
}

func (d *Deps) complete() error {
	switch {
	case d.Reports == nil:
		return errors.New("api: Deps.Reports is missing")
	case d.Definitions == nil:
		return errors.New("api: Deps.Definitions is missing")
	case d.Catalog == nil:
		return errors.New("api: Deps.Catalog is missing")
	case d.Store == nil:
		return errors.New("api: Deps.Store is missing")
	case d.Ends == nil:
		return errors.New("api: Deps.Ends is missing")
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return nil
}

// operations lists every call of the API.
func (s *server) operations(schemas huma.Registry) []operation {
	ops := []operation{s.tokenOperation(schemas), s.submitOperation(schemas)}
	ops = append(ops, s.reportOperations(schemas)...)
	ops = append(ops, s.downloadOperation(schemas))
	ops = append(ops, s.rollingOperations(schemas)...)
	return append(ops, s.activityOperations(schemas)...)
}

// within runs f with the time that a question to Kafka may take, and turns its
// failure into the problem "unavailable".
func (s *server) within(c *call, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.r.Context(), s.cfg.KafkaTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		s.log.Warn("the API cannot answer", "what", what, "account", c.account, "err", err)
		return unavailable(fmt.Sprintf("%s cannot be read at the moment. Try again.", what))
	}
	return nil
}

// catchUp makes what is known about the caller's reports current.
func (s *server) catchUp(c *call) error {
	return s.within(c, "The table of reports", func(ctx context.Context) error {
		return s.deps.Reports.CatchUp(ctx, c.account)
	})
}
