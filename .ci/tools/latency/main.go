// Command latency measures how fresh an export is: produce an event and have it
// acknowledged, POST, produce another event, wait, download. The first event
// must be in the file and the second must not. It prints the distribution of
// POST to completed.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type probe struct {
	kafka   *kgo.Client
	http    http.Client
	url     string
	topic   string
	account string
	section string
	token   string
}

func main() {
	brokers := flag.String("brokers", "", "a broker, host:port")
	url := flag.String("url", "", "the API")
	account := flag.String("account", "acme", "account of the events")
	token := flag.String("token", "", "token of that account")
	topic := flag.String("topic", "email-events", "events topic")
	n := flag.Int("n", 1000, "how often")
	rate := flag.Int("rate", 0, "events per second in flight meanwhile")
	label := flag.String("label", "", "what to call this run")
	flag.Parse()
	cl, err := kgo.NewClient(kgo.SeedBrokers(*brokers), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0))
	if err != nil {
		fail(err)
	}
	p := &probe{kafka: cl, url: *url, topic: *topic, account: *account, token: *token, section: "s",
		http: http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: nil, DisableCompression: true}}}
	ctx, cancel := context.WithCancel(context.Background())
	var flow sync.WaitGroup
	sent := 0
	if *rate > 0 {
		flow.Go(func() { sent = p.traffic(ctx, *rate) })
	}
	var took []time.Duration
	run := fmt.Sprintf("%d", time.Now().UnixNano())
	for i := range *n {
		d, err := p.once(run, i)
		if err != nil {
			fail(fmt.Errorf("round %d: %w", i, err))
		}
		took = append(took, d)
	}
	cancel()
	flow.Wait()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	fmt.Printf("%s: %d rounds, POST to completed p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, max %.1f ms (%d events in flight)\n",
		*label, *n, at(0.5), at(0.9), at(0.99), at(1), sent)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (p *probe) event(id string, server time.Time) *kgo.Record {
	value, _ := json.Marshal(map[string]any{"type": "SENT", "correlation_id": id, "account_id": p.account, "section": p.section,
		"activity_id": "latency", "server_time": server.UnixMilli()})
	return &kgo.Record{Topic: p.topic, Key: []byte(id), Value: value}
}

// traffic produces events of the same account, outside of the probes' windows,
// until ctx ends.
func (p *probe) traffic(ctx context.Context, rate int) int {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	sent := 0
	start := time.Now()
	for {
		select {
		case <-ctx.Done():
			if err := p.kafka.Flush(context.Background()); err != nil {
				fail(err)
			}
			return sent
		case <-tick.C:
			for due := int(time.Since(start).Seconds() * float64(rate)); sent < due; sent++ {
				p.kafka.Produce(ctx, p.event(fmt.Sprintf("flow-%d-%d", start.UnixNano(), sent), start.Add(-48*time.Hour)), nil)
			}
		}
	}
}

// once is one round. The window is one millisecond of its own, so that the file
// is small and every event of the round is in it or not by the barrier alone.
func (p *probe) once(run string, i int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	instant := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	before, after := fmt.Sprintf("before-%s-%d", run, i), fmt.Sprintf("after-%s-%d", run, i)
	if err := p.kafka.ProduceSync(ctx, p.event(before, instant)).FirstErr(); err != nil {
		return 0, err
	}
	body, _ := json.Marshal(map[string]string{"start_at": stamp(instant), "end_at": stamp(instant.Add(time.Millisecond))})
	start := time.Now()
	var report struct {
		ID     string `json:"report_id"`
		Status string `json:"status"`
		URL    string `json:"file_download_url"`
	}
	if err := p.call(ctx, "POST", p.url+"/emails/reports", body, 202, &report); err != nil {
		return 0, err
	}
	posted := make(chan error, 1)
	go func() { posted <- p.kafka.ProduceSync(ctx, p.event(after, instant)).FirstErr() }()
	for pause := time.Millisecond; report.Status != "completed"; pause = min(pause*5/4+time.Millisecond, 20*time.Millisecond) {
		if err := p.call(ctx, "GET", p.url+"/emails/reports/"+report.ID, nil, 200, &report); err != nil {
			return 0, err
		}
		if report.Status != "completed" && report.Status != "requested" && report.Status != "processing" {
			return 0, fmt.Errorf("report %s is %s", report.ID, report.Status)
		}
		if report.Status == "completed" {
			break
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("report %s is %s after a minute", report.ID, report.Status)
		case <-time.After(pause):
		}
	}
	took := time.Since(start)
	if err := <-posted; err != nil {
		return 0, err
	}
	var file []byte
	if err := p.call(ctx, "GET", report.URL, nil, 200, &file); err != nil {
		return 0, err
	}
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return 0, err
	}
	if !strings.Contains(string(text), ","+before+",") {
		return 0, fmt.Errorf("report %s lacks %s, which was acknowledged before the POST:\n%s", report.ID, before, text)
	}
	if strings.Contains(string(text), ","+after+",") {
		return 0, fmt.Errorf("report %s has %s, which was produced after the POST was answered", report.ID, after)
	}
	return took, nil
}

func stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z") }

// call makes one request; into is a *[]byte for the body as it is, else JSON.
func (p *probe) call(ctx context.Context, method, url string, body []byte, want int, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %s: %.500s", method, url, resp.Status, got)
	}
	if raw, ok := into.(*[]byte); ok {
		*raw = got
		return nil
	}
	return json.Unmarshal(got, into)
}
