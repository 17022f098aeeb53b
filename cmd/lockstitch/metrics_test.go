package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestWhatAReplicaTellsOfItself: what it is, what it may use, until when its certificate is
// good, and how brokers treat its clients.
func TestWhatAReplicaTellsOfItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	certificate(t, 1, cert, key)
	y := startSystem(t, t.TempDir(), func(s *Settings) {
		s.HTTP.TLSCertFile, s.HTTP.TLSKeyFile, s.Replica.MemoryLimit = cert, key, 300<<20
	})
	if err := testutil.GatherAndCompare(y.r.reg, strings.NewReader(`
# HELP lockstitch_memory_limit_bytes The setting memory_limit.
# TYPE lockstitch_memory_limit_bytes gauge
lockstitch_memory_limit_bytes 3.145728e+08
`), "lockstitch_memory_limit_bytes"); err != nil {
		t.Error(err)
	}
	families, err := y.r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]float64)
	for _, f := range families {
		told[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	if told["lockstitch_build_info"] != 1 {
		t.Error("it does not say what it is")
	}
	if left := time.Until(time.Unix(int64(told["lockstitch_tls_not_after_timestamp_seconds"]), 0)); left < 0 || left > time.Hour {
		t.Errorf("the certificate is told to be good for %v, want what is left of an hour", left)
	}
	m := y.r.metrics
	for _, cl := range []*kgo.Client{y.r.asker, y.r.catalog.Client()} {
		hooks, there := reflect.ValueOf(cl.OptValue(kgo.WithHooks)), false
		for i := range hooks.Len() {
			there = there || hooks.Index(i).Interface() == any(m)
		}
		if !there {
			t.Error("a client does not tell how brokers treat it")
		}
	}
	failed := testutil.ToFloat64(m.connectFailed)
	m.OnBrokerThrottle(kgo.BrokerMetadata{}, 1500*time.Millisecond, true)
	m.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, nil)
	m.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, errors.New("refused"))
	if s, n := testutil.ToFloat64(m.throttled), testutil.ToFloat64(m.connectFailed)-failed; s != 1.5 || n != 1 {
		t.Errorf("%v s throttled, %v connections failed", s, n)
	}
}

// Replicas that differ in a setting of the system tell so of that one; what each has for
// itself, and its secrets, they do not tell.
func TestReplicasTellWhereTheirSettingsDiffer(t *testing.T) {
	for _, o := range options {
		if strings.Contains(o.help, "same on all replicas") && !slices.Contains(agreed, o.key) {
			t.Errorf("%s is to be the same on all replicas, and nobody is told where it is not", o.key)
		}
	}
	for _, key := range agreed {
		if _, ok := optionByKey(key); !ok {
			t.Errorf("there is no setting %s", key)
		}
	}
	tell := func(args ...string) map[string]string {
		t.Helper()
		s, _, err := loadSettings(flagsOf(t, args...), nil, serveScope)
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		newReplicaMetrics(reg, s)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		told := make(map[string]string)
		for _, f := range families {
			if f.GetName() == "lockstitch_setting_info" {
				for _, m := range f.GetMetric() { // labels are in order of their names
					told[m.GetLabel()[1].GetValue()] = m.GetLabel()[0].GetValue()
				}
			}
		}
		return told
	}
	one := tell("--brokers=one:1", "--signing-keys=k1:"+strings.Repeat("k", 32), "--clients=a:secret:acme", "--data-dir=x", "--store-url=s3://bucket")
	two := tell("--brokers=two:1", "--signing-keys=k1:"+strings.Repeat("l", 32), "--clients=a:other:acme", "--data-dir=y", "--store-url=s3://bucket",
		"--memory-limit=1GiB", "--retention=10000h", "--default-account=acme", "--log-level=warn")
	var differ []string
	for key, hash := range one {
		if two[key] != hash {
			differ = append(differ, key)
		}
	}
	slices.Sort(differ)
	if fmt.Sprint(differ) != "[default_account retention]" || len(one) != len(agreed) || len(two) != len(agreed) {
		t.Errorf("they differ in %v; %d and %d settings of %d are told", differ, len(one), len(two), len(agreed))
	}
}
