package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/api"
	"lockstitch/state/kafka"
)

// exportClient calls the API of a replica as any other client would.
type exportClient struct {
	url       string // without a slash at the end
	id        string // empty: there is a token
	secret    string
	token     string // what calls carry; empty: to be asked for with id and secret
	tokenFile string // where token comes from, unless it is empty
	http      http.Client
	out       io.Writer // told what the server has it wait for; nil: nobody is

	stall  time.Duration // see stallTimeout, which 0 means
	giveUp time.Duration // see giveUpAfter, which 0 means
}

const (
	callTimeout  = 60 * time.Second // of a call that is no download
	stallTimeout = 60 * time.Second // of a download without a byte: it is broken off and resumed
	giveUpAfter  = 5 * time.Minute  // of a download that gets no byte, however often it is resumed
	maxAnswer    = 4 << 20          // bytes of an answer that is no download
	pollMin      = 20 * time.Millisecond
	pollMax      = 2 * time.Second
)

// trust makes the client accept certificates of the authorities in a PEM file.
func (x *exportClient) trust(caFile string) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no PEM certificate", caFile)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	x.http.Transport = t
	return nil
}

// problemError is an answer that says what is wrong.
type problemError struct {
	status int
	detail string
	retry  time.Duration // Retry-After; 0: none
}

func (e *problemError) Error() string {
	return fmt.Sprintf("the server answered %d: %s", e.status, e.detail)
}

// again makes a call until it succeeds, trying again cures nothing, or limit has passed.
func again[T any](ctx context.Context, x *exportClient, limit time.Duration, call func() (T, error)) (T, error) {
	return backoff.Retry(ctx, call, backoff.WithMaxElapsedTime(limit), backoff.WithNotify(func(err error, pause time.Duration) {
		var p *problemError
		if x.out != nil && errors.As(err, &p) && (p.retry > 0 || p.status == http.StatusTooManyRequests) {
			say(x.out, "%v; waiting for %s\n", err, pause.Round(time.Second))
		}
	}))
}

// authorize gets a token, unless there is one. It waits for its turn as long as the
// server says, but not for a server that does not answer: the address may be wrong.
func (x *exportClient) authorize(ctx context.Context) error {
	if x.token != "" {
		return nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {x.id}, "client_secret": {x.secret}}
	t, err := again(ctx, x, time.Minute, func() (t api.Token, err error) {
		err = x.send(ctx, http.MethodPost, "/oauth/token", "application/x-www-form-urlencoded", form.Encode(), &t)
		var p *problemError
		if err != nil && !errors.As(err, &p) {
			return t, backoff.Permanent(err)
		}
		return t, permanent(err)
	})
	if err != nil {
		return fmt.Errorf("asking for a token: %w", err)
	}
	x.token = t.AccessToken
	return nil
}

// renew replaces a token that was refused, by one that the server gives or that its
// file holds by now; refused is returned if there is no other.
func (x *exportClient) renew(ctx context.Context, refused error) error {
	switch {
	case x.tokenFile != "":
		token, err := kafka.Secret("").Resolve(x.tokenFile)
		if err != nil {
			return errors.Join(refused, err)
		}
		if token == x.token {
			return refused
		}
		x.token = token
		return nil
	case x.id != "":
		x.token = ""
		return x.authorize(ctx)
	}
	return refused
}

// endedError says that a report has ended without a file.
type endedError struct{ id, how string }

func (e *endedError) Error() string { return "report " + e.id + " " + e.how }

// request asks for an export. An answer that got lost is asked for again: the
// key makes both the same report.
func (x *exportClient) request(ctx context.Context, req api.ExportRequest) (*api.Status, error) {
	if err := x.authorize(ctx); err != nil { // a wrong address shows at once
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	key := ulid.Make().String()
	st, err := again(ctx, x, time.Minute, func() (*api.Status, error) {
		st := new(api.Status)
		err := x.call(ctx, http.MethodPost, "/emails/reports", "application/json", string(body), st, "Idempotency-Key", key)
		var p *problemError
		if errors.As(err, &p) && p.status == http.StatusTooManyRequests {
			return nil, backoff.Permanent(err) // whoever waits knows better for how long
		}
		return st, permanent(err)
	})
	if err != nil {
		return nil, fmt.Errorf("requesting the export: %w", err)
	}
	return st, nil
}

func (x *exportClient) status(ctx context.Context, id string) (*api.Status, error) {
	st := new(api.Status)
	if err := x.call(ctx, http.MethodGet, "/emails/reports/"+url.PathEscape(id), "", "", st); err != nil {
		return nil, fmt.Errorf("asking for the status of report %s: %w", id, err)
	}
	return st, nil
}

// follow asks for the status until the report has come to an end; show is told
// of every answer. An end without a file is an error.
func (x *exportClient) follow(ctx context.Context, st *api.Status, show func(api.Status)) (*api.Status, error) {
	wait := pollMin
	for {
		show(*st)
		switch st.Status {
		case "completed":
			if st.Rows == nil || st.Bytes == nil {
				return nil, fmt.Errorf("the status of report %s says completed and not how many rows and bytes; is it a Lockstitch API?", st.ReportID)
			}
			return st, nil
		case "error":
			how := "failed"
			if st.Error != nil {
				how = fmt.Sprintf("failed: %s: %s", st.Error.Title, st.Error.Detail)
			}
			return nil, &endedError{st.ReportID, how}
		case "cancelled", "expired":
			return nil, &endedError{st.ReportID, "is " + st.Status}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
		wait = min(wait*3/2, pollMax)
		next, err := again(ctx, x, 5*time.Minute, func() (*api.Status, error) {
			next, err := x.status(ctx, st.ReportID)
			return next, permanent(err)
		})
		if err != nil {
			return nil, err
		}
		st = next
	}
}

// permanent marks errors that trying again does not cure, and passes on how
// long the server wants callers to wait.
func permanent(err error) error {
	var p *problemError
	if errors.As(err, &p) {
		if p.retry > 0 {
			return &laterError{err, &backoff.RetryAfterError{Duration: p.retry}}
		}
		if p.status < 500 && p.status != http.StatusTooManyRequests {
			return backoff.Permanent(err)
		}
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return backoff.Permanent(err)
	}
	return err
}

// laterError is an error to try again after, whose text still says what was
// wrong when the trying ends.
type laterError struct {
	error
	after *backoff.RetryAfterError
}

func (e *laterError) Unwrap() []error { return []error{e.error, e.after} }

// errChanged says that the file is not the one that the download began with.
var errChanged = errors.New("the file has changed on the server")

// errStalled says that a download was broken off because nothing arrived.
var errStalled = errors.New("the server has sent nothing for too long")

// download writes the file at an address from byte from on.
func (x *exportClient) download(ctx context.Context, address, sha256 string, from int64, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := cmp.Or(x.stall, stallTimeout)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		req.Header.Set("If-Range", `"`+sha256+`"`) // the file's ETag
	}
	resp, err := x.do(req)
	if err != nil {
		return stalled(ctx, hideQuery(err))
	}
	defer resp.Body.Close()
	switch {
	case from > 0 && resp.StatusCode == http.StatusOK:
		return errChanged
	case from > 0 && resp.StatusCode != http.StatusPartialContent, from == 0 && resp.StatusCode != http.StatusOK:
		return answerError(resp)
	}
	_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
		n, err := w.Write(p)
		watch.Reset(stall) // after the write: it is the server that is watched
		return n, err
	}), resp.Body)
	return stalled(ctx, err)
}

// stalled says of a download that was broken off why.
func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// hideQuery takes the address out of an error: a download URL carries a
// credential.
func hideQuery(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// do sends a request, and follows no redirect: the API has none, and what a call carries, a
// secret, a token or the credential of a download, is for the server that it is addressed to.
func (x *exportClient) do(req *http.Request) (*http.Response, error) {
	client := x.http
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client.Do(req)
}

// call makes one call that is no download; header are names and values. It gets a
// token if there is none, and, once, another for one that is refused.
func (x *exportClient) call(ctx context.Context, method, path, contentType, body string, answer any, header ...string) error {
	if err := x.authorize(ctx); err != nil {
		return err
	}
	err := x.send(ctx, method, path, contentType, body, answer, header...)
	var p *problemError
	if !errors.As(err, &p) || p.status != http.StatusUnauthorized {
		return err
	}
	if err := x.renew(ctx, err); err != nil {
		return err
	}
	return x.send(ctx, method, path, contentType, body, answer, header...)
}

// send sends a request with the token, if there is one, and reads the answer.
func (x *exportClient) send(ctx context.Context, method, path, contentType, body string, answer any, header ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, x.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if x.token != "" {
		req.Header.Set("Authorization", "Bearer "+x.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := x.do(req)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return context.Canceled
		}
		return fmt.Errorf("%s cannot be reached: %w; check --url", x.url, hideQuery(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return answerError(resp)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("the answer of %s cannot be read: %w; is it a Lockstitch API?", path, err)
	}
	return nil
}

func answerError(resp *http.Response) error {
	e := &problemError{status: resp.StatusCode, detail: http.StatusText(resp.StatusCode) + "; is it a Lockstitch API?"}
	if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 {
		e.detail = fmt.Sprintf("a redirect to %s://%s, which is not followed, as the call carries a credential; check --url", to.Scheme, to.Host)
		return e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var p api.Problem
	if err == nil && json.NewDecoder(bytes.NewReader(body)).Decode(&p) == nil && p.Detail != "" {
		e.detail = p.Detail
		if len(p.Errors) > 1 { // of one, the detail says it all
			e.detail = p.Title
			for _, f := range p.Errors {
				e.detail += fmt.Sprintf("\n  %s: %s", f.Pointer, f.Detail)
			}
		}
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.retry = time.Duration(s) * time.Second
	}
	return e
}
