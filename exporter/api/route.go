package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lockstitch/exporter/auth"
	"lockstitch/exporter/limits"
)

// operation is one call of the API: how it is documented and who answers it.
type operation struct {
	huma.Operation
	public bool              // needs no access token
	limit  *limits.PerMinute // counts the call by account, beside server.calls; nil: nothing does
	handle func(*call) error
}

// call is one request under way.
type call struct {
	w       *responseWriter
	r       *http.Request
	query   url.Values
	account string // of the access token; empty for public operations
	client  string // whose the token is: a client's id, or the subject of another issuer's
}

// param is a query parameter that may be given once.
func (c *call) param(name string) (value string, given bool, err error) {
	vs, given := c.query[name]
	if len(vs) > 1 {
		return "", true, invalidParam(name, "is given %d times", len(vs))
	}
	if !given {
		return "", false, nil
	}
	return vs[0], true, nil
}

// flag is a query parameter that is true or false.
func (c *call) flag(name string) (bool, error) {
	v, given, err := c.param(name)
	switch {
	case err != nil:
		return false, err
	case !given || v == "false":
		return false, nil
	case v == "true":
		return true, nil
	}
	return false, invalidParam(name, "must be true or false")
}

// limit is how many items of a list are asked for.
func (c *call) limit() (int, error) {
	v, given, err := c.param("limit")
	if err != nil || !given {
		return listDefault, err
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > listMax || v != strconv.Itoa(n) {
		return 0, invalidParam("limit", "must be a whole number from 1 to %d", listMax)
	}
	return n, nil
}

// page is which part of a list is asked for: how many items at most, and behind
// which; an empty token: from the first.
func (c *call) page() (limit int, token string, err error) {
	if limit, err = c.limit(); err != nil {
		return 0, "", err
	}
	token, given, err := c.param("page_token")
	if err == nil && given && token == "" {
		err = invalidParam("page_token", "is empty")
	}
	return limit, token, err
}

const (
	listDefault = 50
	listMax     = 200
)

// answerTimeout is how long writing an answer that is not a file may take, once
// there is one: a client that does not read must not hold the handler.
const answerTimeout = 30 * time.Second

// router puts operations on the mux and into the document.
type router struct {
	server  *server
	mux     *http.ServeMux
	adapter huma.Adapter
	doc     *huma.OpenAPI
	methods map[string][]string // by path
}

func (rt *router) add(op operation) {
	rt.doc.AddOperation(&op.Operation)
	rt.methods[op.Path] = append(rt.methods[op.Path], op.Method)
	rt.adapter.Handle(&op.Operation, func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		rt.server.answer(&op, w.(*responseWriter), r)
	})
}

// finish adds the pages about the document and the answers to everything that
// is no operation.
func (rt *router) finish() {
	for p, made := range documentPages(rt.doc) {
		rt.methods[p] = append(rt.methods[p], http.MethodGet)
		rt.mux.HandleFunc("GET "+p, func(w http.ResponseWriter, r *http.Request) {
			w.(*responseWriter).route = p
			page, err := made()
			if err != nil {
				panic(fmt.Errorf("making %s: %w", p, err)) // the document is ours: logged, and 500
			}
			page.serve(w, r)
		})
	}
	for p, ms := range rt.methods {
		if slices.Contains(ms, http.MethodGet) {
			ms = append(ms, http.MethodHead)
		}
		slices.Sort(ms)
		allow := strings.Join(ms, ", ")
		rt.mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
			w.(*responseWriter).route = p
			writeProblem(w, kindMethod.problem("This path takes "+allow+".").with("Allow", allow))
		})
	}
	rt.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, notFound("No call of this API has this path. /docs lists them."))
	})
}

// answer runs one operation: the credential, then the handler.
func (s *server) answer(op *operation, w *responseWriter, r *http.Request) {
	w.route = op.Path
	c := &call{w: w, r: r}
	err := func() error {
		if !op.public {
			if err := s.authenticate(c); err != nil {
				return err
			}
			if err := s.count(op, c.account); err != nil {
				return err
			}
		}
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return invalid(FieldError{Detail: "the query of the URL cannot be decoded"})
		}
		c.query = q
		return op.handle(c)
	}()
	if err == nil {
		return
	}
	p, internal := asProblem(err)
	if internal {
		if r.Context().Err() != nil {
			p = unavailable("The call was given up.")
		} else {
			s.log.Error("a call failed", "route", op.Path, "method", r.Method, "account", c.account, "err", err)
		}
	}
	if !w.wrote {
		writeProblem(w, p)
	}
}

// count refuses a call of which the account has made too many.
func (s *server) count(op *operation, account string) error {
	wait, ok := s.calls.Take(account, s.now())
	if ok && op.limit != nil {
		wait, ok = op.limit.Take(account, s.now())
	}
	if !ok {
		return limited(kindRate, wait, "The account has made too many calls, or too many of this kind, within a minute.")
	}
	return nil
}

const challenge = `Bearer realm="lockstitch"`

func (s *server) authenticate(c *call) error {
	h := c.r.Header.Values("Authorization")
	if len(h) == 0 {
		return unauthorized(challenge, "The Authorization header is missing. Get a token at /oauth/token and send it as \"Authorization: Bearer <token>\".")
	}
	scheme, token, _ := strings.Cut(h[0], " ")
	if len(h) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return unauthorized(challenge+`, error="invalid_request"`, "The Authorization header must be \"Bearer <token>\".")
	}
	id, err := s.authority.Verify(c.r.Context(), strings.TrimLeft(token, " "))
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		s.log.Warn("a token cannot be verified", "err", err)
		return unavailable("The keys of the token's issuer cannot be read at the moment.")
	case err != nil:
		return unauthorized(challenge+`, error="invalid_token"`, "The token is not valid or has expired. Get another at /oauth/token.")
	}
	c.account, c.client = id.Account, id.Subject
	return nil
}

// outermost is what every request passes first and every answer last.
func (s *server) outermost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rw := &responseWriter{ResponseWriter: w, route: "none"}
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					s.metrics.observe(rw, r, time.Since(begin))
					panic(v)
				}
				s.metrics.panics.Inc()
				s.log.Error("a handler panicked", "route", rw.route, "method", r.Method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				if rw.wrote {
					// Half an answer must not look like a whole one.
					s.metrics.observe(rw, r, time.Since(begin))
					panic(http.ErrAbortHandler)
				}
				writeProblem(rw, kindInternal.problem("The call could not be completed. The failure was logged."))
			}
			s.metrics.observe(rw, r, time.Since(begin))
		}()
		rw.always()
		if !cleanPath(r.URL.EscapedPath()) {
			writeProblem(rw, notFound("No call of this API has this path. /docs lists them."))
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// cleanPath says whether the mux would take a path as it is. Others it would
// answer with a redirect of its own.
func cleanPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	clean := path.Clean(p)
	return p == clean || p == clean+"/"
}

// responseWriter remembers what was answered.
type responseWriter struct {
	http.ResponseWriter
	route string // for the metrics
	code  int
	wrote bool
}

// always sets the headers that every answer has.
func (w *responseWriter) always() {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
}

func (w *responseWriter) WriteHeader(code int) {
	if code >= 200 && !w.wrote {
		w.begin(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *responseWriter) begin(code int) {
	w.code, w.wrote = code, true
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
}

func (w *responseWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.begin(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
