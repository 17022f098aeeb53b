package main

import (
	"bytes"
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

	"lockstitch/exporter/api"
)

// exportClient calls the API of a replica as any other client would.
type exportClient struct {
	url    string // without a slash at the end
	id     string
	secret string
	token  string // if set, used instead of id and secret
	http   http.Client
}

const (
	callTimeout = 60 * time.Second // of a call that is no download
	maxAnswer   = 4 << 20          // bytes of an answer that is no download
	pollMin     = 20 * time.Millisecond
	pollMax     = 2 * time.Second
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

// authorize gets a token, unless one was given.
func (x *exportClient) authorize(ctx context.Context) error {
	if x.token != "" {
		return nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {x.id}, "client_secret": {x.secret}}
	var t api.Token
	if err := x.call(ctx, http.MethodPost, "/oauth/token", "application/x-www-form-urlencoded", form.Encode(), &t); err != nil {
		return fmt.Errorf("asking for a token: %w", err)
	}
	x.token = t.AccessToken
	return nil
}

// request asks for an export.
func (x *exportClient) request(ctx context.Context, req api.ExportRequest) (*api.Status, error) {
	if err := x.authorize(ctx); err != nil {
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	st := new(api.Status)
	if err := x.call(ctx, http.MethodPost, "/emails/reports", "application/json", string(body), st); err != nil {
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
			return st, nil
		case "error":
			if st.Error != nil {
				return nil, fmt.Errorf("report %s failed: %s: %s", st.ReportID, st.Error.Title, st.Error.Detail)
			}
			return nil, fmt.Errorf("report %s failed", st.ReportID)
		case "cancelled", "expired":
			return nil, fmt.Errorf("report %s is %s", st.ReportID, st.Status)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
		wait = min(wait*3/2, pollMax)
		next, err := backoff.Retry(ctx, func() (*api.Status, error) {
			next, err := x.status(ctx, st.ReportID)
			return next, permanent(err)
		}, backoff.WithMaxElapsedTime(5*time.Minute))
		if err != nil {
			return nil, err
		}
		st = next
	}
}

// permanent marks errors that trying again does not cure.
func permanent(err error) error {
	var p *problemError
	if errors.As(err, &p) {
		if p.retry > 0 {
			return backoff.RetryAfter(int(p.retry / time.Second))
		}
		if p.status < 500 && p.status != http.StatusTooManyRequests {
			return backoff.Permanent(err)
		}
	}
	return err
}

// errChanged says that the file is not the one that the download began with.
var errChanged = errors.New("the file has changed on the server")

// download writes the file from byte from on.
func (x *exportClient) download(ctx context.Context, st *api.Status, from int64, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, st.FileDownloadURL, nil)
	if err != nil {
		return err
	}
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		req.Header.Set("If-Range", `"`+st.SHA256+`"`) // the file's ETag
	}
	resp, err := x.http.Do(req)
	if err != nil {
		return hideQuery(err)
	}
	defer resp.Body.Close()
	switch {
	case from > 0 && resp.StatusCode == http.StatusOK:
		return errChanged
	case from > 0 && resp.StatusCode != http.StatusPartialContent, from == 0 && resp.StatusCode != http.StatusOK:
		return answerError(resp)
	}
	_, err = io.Copy(w, resp.Body)
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

func (x *exportClient) call(ctx context.Context, method, path, contentType, body string, answer any) error {
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
	resp, err := x.http.Do(req)
	if err != nil {
		return err
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
	e := &problemError{status: resp.StatusCode, detail: http.StatusText(resp.StatusCode)}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var p api.Problem
	if err == nil && json.NewDecoder(bytes.NewReader(body)).Decode(&p) == nil && p.Detail != "" {
		e.detail = p.Detail
		for _, f := range p.Errors {
			e.detail += fmt.Sprintf("\n  %s: %s", f.Pointer, f.Detail)
		}
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.retry = time.Duration(s) * time.Second
	}
	return e
}
