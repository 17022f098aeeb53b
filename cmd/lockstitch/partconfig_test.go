package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/consumer"
	"lockstitch/exporter/api"
	"lockstitch/exporter/auth"
	exportrun "lockstitch/exporter/run"
	"lockstitch/state/kafka"
)

// sameFields tells of each field in which two structs of one type differ.
func sameFields(t *testing.T, of string, got, want any) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if one, other := g.Field(i).Interface(), w.Field(i).Interface(); !reflect.DeepEqual(one, other) {
			t.Errorf("%s.%s is %v, want %v", of, g.Type().Field(i).Name, one, other)
		}
	}
}

// What is set reaches the parts: one that got nothing would fall back to its own default,
// without a word.
func TestSettingsReachTheParts(t *testing.T) {
	secret, hash := "0123456789abcdef-of-one", strings.Repeat("AB", 32)
	s, _, err := loadSettings(flagsOf(t,
		"--brokers=localhost:9092",
		"--events-topics=e1,e2", "--profiles-topic=p", "--definitions-topic=d", "--catalog-topic=c", "--reports-topic=r", "--dead-letters-topic=l",
		"--group=g", "--instance-id=i", "--data-dir=dir", "--store-url=s3://b", "--destinations=lake:acme:s3://c", "--default-account=account", "--accounts=other,account", "--memory-limit=320MiB",
		"--flush-interval=11s", "--dedup-horizon=49h", "--retention=2400h", "--session-timeout=13s", "--transaction-timeout=17s",
		"--start-timeout=19s", "--shutdown-delay=23s", "--shutdown-timeout=29s",
		"--public-url=https://x.example.com/y", "--clients=c1:"+secret+":one,c2:sha256:"+hash+":two", "--signing-keys="+testKey+",k2:"+strings.Repeat("k", 40),
		"--issuer-jwks-url=https://id.example.com/keys", "--issuer=iss", "--issuer-audience=aud", "--issuer-account-claim=claim", "--issuer-algorithms=PS256",
		"--window-months=2", "--max-attributes=4", "--max-tags=5", "--max-sections=6", "--max-pending=7", "--max-reports-size=8MiB", "--max-rolling-exports=9",
		"--max-file-size=31KiB", "--tokens-per-minute=32", "--exports-per-minute=33", "--downloads-per-minute=34", "--calls-per-minute=35",
		"--barrier-timeout=36m", "--file-lifetime=37h", "--download-url-lifetime=38m", "--max-rendering=39", "--export-parallel=40",
	), nil, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	s.Replica.writerSuffix = "-w"
	// A setting that is new must be here, too.
	plain, _, err := loadSettings(flagsOf(t, least...), nil, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range [][2]any{{s.Limits, plain.Limits}, {s.Replica, plain.Replica}} {
		set, def := reflect.ValueOf(group[0]), reflect.ValueOf(group[1])
		for i := range set.NumField() {
			if fmt.Sprint(set.Field(i)) == fmt.Sprint(def.Field(i)) {
				t.Errorf("%s has its default", set.Type().Field(i).Name)
			}
		}
	}

	called := 0
	before := stepHook
	defer func() { stepHook = before }()
	stepHook = func(string) { called++ }
	opts := []kgo.Opt{kgo.ClientID("x")}

	c := s.consumerConfig(opts)
	c.Hook("a step")
	if len(c.Kafka) != 1 || &c.Kafka[0] != &opts[0] || called != 1 {
		t.Errorf("the consumer has the options %v, the hook was called %d times", c.Kafka, called)
	}
	c.Kafka, c.Hook = nil, nil
	sameFields(t, "consumer", c, consumer.Config{
		Topics: kafka.Topics{Events: []string{"e1", "e2"}, Profiles: "p", Definitions: "d", Catalog: "c", Reports: "r", DeadLetters: "l"},
		Group:  "g", InstanceID: "i", DataDir: filepath.Join("dir", "local"), MemoryBytes: 160 << 20, FlushInterval: 11 * time.Second, DedupHorizon: 49 * time.Hour,
		Retention: 2400 * time.Hour, SessionTimeout: 13 * time.Second, TransactionTimeout: 17 * time.Second, DefaultAccount: "account", Accounts: []string{"other", "account"}, WriterSuffix: "-w",
	})

	r := s.runnerConfig(opts)
	r.Hook("a step")
	if len(r.Kafka) != 1 || &r.Kafka[0] != &opts[0] || called != 2 {
		t.Errorf("the runner has the options %v, the hook was called %d times", r.Kafka, called-1)
	}
	r.Kafka, r.Hook = nil, nil
	sameFields(t, "runner", r, exportrun.Config{
		Topic: "r", Profiles: "p", Group: "g-reports", Parallel: 39, Memory: 80 << 20, Workers: 40, FileLifetime: 37 * time.Hour, MaxBytes: 31 << 10,
		SessionTimeout: 13 * time.Second,
	})

	sum := sha256.Sum256([]byte(secret))
	a := s.apiConfig()
	sameFields(t, "api.Limits", a.Limits, api.Limits{
		WindowMonths: 2, Attributes: 4, Tags: 5, Sections: 6, Pending: 7, ReportsBytes: 8 << 20, AllReportsBytes: 60 << 20, RollingExports: 9,
		TokensPerMinute: 32, ExportsPerMinute: 33, DownloadsPerMinute: 34, CallsPerMinute: 35,
	})
	want := api.Config{
		PublicURL: "https://x.example.com/y",
		Clients: []auth.Client{{ID: "c1", SecretHash: "sha256:" + hex.EncodeToString(sum[:]), Account: "one"},
			{ID: "c2", SecretHash: "sha256:" + strings.ToLower(hash), Account: "two"}},
		SigningKeys: []auth.Key{{ID: "k1", Secret: []byte("0123456789abcdef0123456789abcdef")}, {ID: "k2", Secret: []byte(strings.Repeat("k", 40))}},
		Issuers: []auth.Issuer{{Name: "iss", JWKSURL: "https://id.example.com/keys", Audience: "aud", AccountClaim: "claim",
			Algorithms: []string{"PS256"}}},
		FileLifetime: 37 * time.Hour, DownloadLifetime: 38 * time.Minute, BarrierTimeout: 36 * time.Minute,
		ActivityCacheBytes: 20 << 20, ActivitySumBytes: 10 << 20,
	}
	want.Limits = a.Limits
	sameFields(t, "api", a, want)
}

// So does how brokers are reached: without a name or a secret a connection may be another
// one than was asked for.
func TestSettingsReachTheConnection(t *testing.T) {
	s := KafkaSettings{Brokers: []string{"one:1", "two:2"}, ClientID: "id", TLS: true, TLSCAFile: "ca", TLSCertFile: "cert", TLSKeyFile: "key", TLSServerName: "name",
		SASLMechanism: "mechanism", Username: "user", Password: "password", PasswordFile: "password-file", OAuthTokenFile: "token-file", OAuthTokenURL: "token-url",
		OAuthClientID: "oauth-id", OAuthClientSecret: "secret", OAuthClientSecretFile: "secret-file", OAuthScopes: []string{"scope"}}
	got, set := reflect.ValueOf(s.Config()), reflect.ValueOf(s)
	if got.NumField() != set.NumField() {
		t.Errorf("a connection has %d fields, there are %d settings", got.NumField(), set.NumField())
	}
	for i := range set.NumField() {
		name := set.Type().Field(i).Name
		if set.Field(i).IsZero() {
			t.Errorf("%s is not tried", name)
		}
		if one, other := got.FieldByName(name).Interface(), set.Field(i).Interface(); !reflect.DeepEqual(one, other) {
			t.Errorf("%s is %v, want %v", name, one, other)
		}
	}
}
