package objects

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Measured is a store that tells how long its answers take, and which fail, as
// lockstitch_store_request_duration_seconds. Repetitions within a call are a part of it. Of a
// read the time until its beginning counts, of a streamed object its end.
func Measured(s Store, reg prometheus.Registerer) Store {
	m := &measured{Store: s, seconds: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lockstitch_store_request_duration_seconds",
		Help:    "Time that the object store took for a call, repetitions included.",
		Buckets: []float64{.001, .005, .02, .05, .1, .25, 1, 5, 30, 120},
	}, []string{"operation", "result"})}
	for _, op := range []string{"put", "commit", "open", "stat", "list", "delete"} {
		m.seconds.WithLabelValues(op, "ok")
		m.seconds.WithLabelValues(op, "error")
	}
	return m
}

type measured struct {
	Store
	seconds *prometheus.HistogramVec
}

// observe counts as errors what says nothing about an object. Who was called off says
// nothing about the store.
func (m *measured) observe(ctx context.Context, op string, begun time.Time, err error) {
	result := "ok"
	switch {
	case err == nil, errors.Is(err, ErrExists), errors.Is(err, ErrNotExist):
	case ctx.Err() != nil:
		return
	default:
		result = "error"
	}
	m.seconds.WithLabelValues(op, result).Observe(time.Since(begun).Seconds())
}

func (m *measured) Put(ctx context.Context, name string, data []byte) error {
	begun := time.Now()
	err := m.Store.Put(ctx, name, data)
	m.observe(ctx, "put", begun, err)
	return err
}

func (m *measured) Create(ctx context.Context, name string) (Writer, error) {
	w, err := m.Store.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	return &measuredWriter{w, ctx, m}, nil
}

type measuredWriter struct {
	Writer
	ctx context.Context
	m   *measured
}

func (w *measuredWriter) Commit() error {
	begun := time.Now()
	err := w.Writer.Commit()
	w.m.observe(w.ctx, "commit", begun, err)
	return err
}

func (m *measured) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	begun := time.Now()
	r, err := m.Store.Open(ctx, name, off, n)
	m.observe(ctx, "open", begun, err)
	return r, err
}

func (m *measured) Stat(ctx context.Context, name string) (Info, error) {
	begun := time.Now()
	info, err := m.Store.Stat(ctx, name)
	m.observe(ctx, "stat", begun, err)
	return info, err
}

func (m *measured) List(ctx context.Context, prefix string, fn func(Info) error) error {
	begun := time.Now()
	var own error // of fn, which is not the store's
	err := m.Store.List(ctx, prefix, func(i Info) error {
		own = fn(i)
		return own
	})
	if own == nil {
		m.observe(ctx, "list", begun, err)
	}
	return err
}

func (m *measured) Delete(ctx context.Context, name string) error {
	begun := time.Now()
	err := m.Store.Delete(ctx, name)
	m.observe(ctx, "delete", begun, err)
	return err
}
