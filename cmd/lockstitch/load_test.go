package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/spf13/pflag"

	"lockstitch/state/report"
)

const testKey = "k1:0123456789abcdef0123456789abcdef"

// flagsOf makes the flags of serve and sets some of them.
func flagsOf(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(fs, serveScope)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// least is what serve cannot do without.
var least = []string{"--brokers=localhost:9092", "--signing-keys=" + testKey}

func TestFlagOverVariableOverFileOverDefault(t *testing.T) {
	file := writeFile(t, "c.yaml", "flush_interval: 3s\nmax_pending: 3\nevents_topics: [a, b]\nmemory_limit: 1GiB\npprof: true\n")
	s, l, err := loadSettings(flagsOf(t, append(least, "--config="+file, "--flush-interval=1s")...),
		[]string{"LOCKSTITCH_FLUSH_INTERVAL=2s", "LOCKSTITCH_MAX_PENDING=2", "LOCKSTITCH_SERVICE_HOST=10.0.0.1", "OTHER=1"}, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	if s.Replica.FlushInterval != time.Second {
		t.Errorf("the flag should win: %s", s.Replica.FlushInterval)
	}
	if s.Limits.MaxPending != 2 {
		t.Errorf("the variable should win over the file: %d", s.Limits.MaxPending)
	}
	if fmt.Sprint(s.Topics.Events) != "[a b]" || s.Replica.MemoryLimit != 1<<30 || !s.HTTP.Pprof {
		t.Errorf("the file should win over the defaults: %v %v %v", s.Topics.Events, s.Replica.MemoryLimit, s.HTTP.Pprof)
	}
	if s.Replica.DedupHorizon != 168*time.Hour || s.Limits.MaxFileSize != 2<<30 {
		t.Errorf("defaults: %s %s", s.Replica.DedupHorizon, s.Limits.MaxFileSize)
	}
	if fmt.Sprint(l.unknown) != "[LOCKSTITCH_SERVICE_HOST]" {
		t.Errorf("unknown variables: %v", l.unknown)
	}
	for key, want := range map[string]string{"flush_interval": "--flush-interval", "max_pending": "LOCKSTITCH_MAX_PENDING", "pprof": file} {
		if got := l.from(key); got != want {
			t.Errorf("%s comes from %s, want %s", key, got, want)
		}
	}
}

// What compose and Helm leave empty hides nothing: the store would be a directory.
func TestAnEmptyVariableIsNotSet(t *testing.T) {
	file := writeFile(t, "c.yaml", "store_url: s3://lockstitch\nflush_interval: 3s\n")
	s, l, err := loadSettings(flagsOf(t, append(least, "--config="+file)...), []string{"LOCKSTITCH_STORE_URL=", "LOCKSTITCH_FLUSH_INTERVAL=", "LOCKSTITCH_MAX_PENDING=", "LOCKSTITCH_STORE_URI="}, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	if s.Replica.StoreURL != "s3://lockstitch" || s.Replica.FlushInterval != 3*time.Second || s.Limits.MaxPending != 10 || l.from("store_url") != file {
		t.Errorf("%q from %s, %s, %d", s.Replica.StoreURL, l.from("store_url"), s.Replica.FlushInterval, s.Limits.MaxPending)
	}
	if fmt.Sprint(l.unknown) != "[LOCKSTITCH_STORE_URI]" {
		t.Errorf("unknown variables: %v", l.unknown)
	}
}

func TestConfigFileCanBeNamedByVariable(t *testing.T) {
	file := writeFile(t, "c.yaml", "brokers: [one:1, two:2]\nsigning_keys:\n- {kid: k1, key: 0123456789abcdef0123456789abcdef}\n")
	s, _, err := loadSettings(flagsOf(t), []string{"LOCKSTITCH_CONFIG=" + file}, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(s.Kafka.Brokers) != "[one:1 two:2]" {
		t.Errorf("brokers %v", s.Kafka.Brokers)
	}
}

func TestClientsAndKeysFromEverywhere(t *testing.T) {
	secret := writeFile(t, "secret", "from-file\n")
	hash := strings.Repeat("ab", 32)
	clients := writeFile(t, "clients.yaml", "- {id: c3, secret_file: "+secret+", account: three}\n- c4:sha256:"+hash+":four\n")
	keys := writeFile(t, "keys.yaml", "- {kid: k2, key_file: "+writeFile(t, "key", strings.Repeat("k", 32))+"}\n")
	s, _, err := loadSettings(flagsOf(t, append(least, "--clients=c1:a:b:one,c2:x:två", "--clients-file="+clients, "--signing-keys-file="+keys)...), nil, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range s.Auth.Clients {
		got = append(got, fmt.Sprintf("%s/%s%s/%s", c.ID, string(c.Secret), c.SecretSHA256, c.Account))
	}
	want := "[c1/a:b/one c2/x/två c3/from-file/three c4/" + hash + "/four]"
	if fmt.Sprint(got) != want {
		t.Errorf("clients %v, want %v", got, want)
	}
	if len(s.Auth.SigningKeys) != 2 || s.Auth.SigningKeys[0].KID != "k1" || string(s.Auth.SigningKeys[1].Key) != strings.Repeat("k", 32) {
		t.Errorf("keys %#v", s.Auth.SigningKeys)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", s, s.Auth, s.Auth), "from-file") {
		t.Error("a secret is printed")
	}
	c := s.apiConfig()
	c.PublicURL = "http://localhost"
	if err := c.Validate(); err != nil {
		t.Errorf("the API refuses what was accepted: %v", err)
	}
}

// The defaults have room for what is usual, and none for what a replica of the default
// memory_limit cannot hold.
func TestDefaultsHaveRoom(t *testing.T) {
	s, _, err := loadSettings(flagsOf(t, least...), nil, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	c := s.apiConfig()
	plan := report.Plan{Lifetime: c.FileLifetime}
	for p := range int32(12) {
		plan.Positions = append(plan.Positions, report.End{Topic: "email-events", Partition: p})
	}
	minutely, quarterly, hourly := plan.Steps("acme", time.Minute), plan.Steps("acme", 15*time.Minute), plan.Steps("acme", time.Hour)
	one, all, most := c.Limits.ReportsBytes, c.Limits.AllReportsBytes, int64(s.Limits.MaxRolling)
	if minutely+hourly > one || most*quarterly > one || 2*(minutely+5*hourly) > all/8*7 {
		t.Errorf("a rolling export takes %d, %d and %d bytes of %d for an account and %d for all", minutely, quarterly, hourly, one, all)
	}
	polled := report.Request{Account: "acme", Body: make([]byte, 100), Question: report.Question{Barrier: plan.Positions, After: plan.Positions}}
	through := report.Question{Barrier: plan.Positions}
	if minutes := int64((c.FileLifetime + 2*24*time.Hour) / time.Minute); minutes*(polled.Size()+through.Size()) > one {
		t.Errorf("a client that asks every minute takes %d bytes of %d", minutes*(polled.Size()+through.Size()), one)
	}
	if 4*one > 3*all || all > int64(s.Replica.MemoryLimit)/4 || most*minutely <= all {
		t.Errorf("%d bytes for an account, %d for all, %d rolling exports take %d each", one, all, most, minutely)
	}
	if s, _, err = loadSettings(flagsOf(t, append(least, "--max-reports-size=256MiB")...), nil, serveScope); err != nil {
		t.Fatal(err)
	}
	if got := s.apiConfig().Limits.ReportsBytes; got != all/4*3 {
		t.Errorf("one account may take %d of %d bytes", got, all)
	}
	if s, _, err = loadSettings(flagsOf(t, append(least, "--memory-limit=1GiB", "--file-lifetime=24h")...), nil, serveScope); err != nil {
		t.Fatal(err)
	}
	if c := s.apiConfig(); c.Limits.AllReportsBytes != 2*all || c.FileLifetime != 24*time.Hour {
		t.Errorf("%d bytes for all, files for %s", c.Limits.AllReportsBytes, c.FileLifetime)
	}
}

// Every setting has at least one value that is refused, by an error that names
// the setting and says what would be right.
func TestEveryRefusal(t *testing.T) {
	for _, tc := range []struct{ arg, key, want string }{
		{"--brokers=", "brokers", "must name at least one broker"},
		{"--brokers=localhost", "brokers", "host:port"},
		{"--kafka-client-id=", "kafka_client_id", "must not be empty"},
		{"--kafka-sasl-mechanism=GSSAPI", "kafka_sasl_mechanism", "must be one of PLAIN"},
		{"--kafka-sasl-mechanism=PLAIN", "SASL", "needs a user name and a password"},
		{"--kafka-tls-ca-file=/does/not/exist", "TLS", "/does/not/exist"},
		{"--kafka-tls-cert-file=/does/not/exist", "TLS", "both"},
		{"--kafka-oauth-token-url=ftp://x", "kafka_oauth_token_url", "must be a URL"},
		{"--events-topics=", "events_topics", "must name at least one"},
		{"--destinations=lake", "destinations", "NAME:ACCOUNT|ACCOUNT:URL"},
		{"--max-reports-size=1023KiB", "max_reports_size", "must be between 1MiB and 1TiB"},
		{"--max-rolling-exports=0", "max_rolling_exports", "between 1 and 100000"},
		{"--events-topics=a,a", "events_topics", "twice"},
		{"--profiles-topic=a b", "profiles_topic", "letters, digits"},
		{"--definitions-topic=profiles", "definitions_topic", "topic of its own"},
		{"--catalog-topic=", "catalog_topic", "1 to 249"},
		{"--reports-topic=..", "reports_topic", "1 to 249"},
		{"--dead-letters-topic=lockstitch.catalog", "dead_letters_topic", "topic of its own"},
		{"--group=", "group", "must not be empty"},
		{"--data-dir=", "data_dir", "must not be empty"},
		{"--store-url=ftp://host/dir", "store_url", "scheme file, s3, gs or azblob"},
		{"--default-account=" + strings.Repeat("å", 513), "default_account", "at most 1024 bytes"},
		{"--default-account=f\xf6retag", "default_account", "must be UTF-8"},
		{"--accounts=acme,", "accounts", "1 to 1024 bytes"},
		{"--accounts=acme," + strings.Repeat("å", 513), "accounts", "1 to 1024 bytes"},
		{"--memory-limit=1MiB", "memory_limit", "between 128MiB and"},
		{"--memory-limit=lots", "memory_limit", "size such as 512MiB"},
		{"--flush-interval=1ms", "flush_interval", "between 100ms and 1h0m0s"},
		{"--dedup-horizon=1s", "dedup_horizon", "between 1m0s and"},
		{"--session-timeout=1s", "session_timeout", "between 6s and"},
		{"--transaction-timeout=1h", "transaction_timeout", "and 15m0s"},
		{"--shutdown-delay=6m", "shutdown_delay", "between 0s and 5m0s"},
		{"--shutdown-timeout=0s", "shutdown_timeout", "between 1s and"},
		{"--http-listen=8080", "http_listen", "host:port"},
		{"--http-listen=:99999", "http_listen", "host:port"},
		{"--admin-listen=:8080", "admin_listen", "must not be on the API's address"},
		{"--public-url=example.com", "public_url", "must be a URL"},
		{"--public-url=https://u:p@example.com/?x=1", "public_url", "must be a URL"},
		{"--public-url=https://x.example/?", "public_url", "without user, query"}, // what the API itself refuses
		{"--http-tls-cert-file=/does/not/exist", "http_tls_cert_file", "needs both"},
		{"--clients=nonsense", "clients", "ID:SECRET:ACCOUNT"},
		{"--clients=a:sha256:zz:b", "clients", "64 hexadecimal digits"},
		{"--clients=a:s:b,a:t:c", "clients", "used twice"},
		{"--clients-file=/does/not/exist", "clients_file", "/does/not/exist"},
		{"--signing-keys=", "signing_keys", "openssl rand"},
		{"--signing-keys=k1", "signing_keys", "KID:KEY"},
		{"--signing-keys=k1:short", "signing_keys", "at least 32"},
		{"--signing-keys-file=/does/not/exist", "signing_keys_file", "/does/not/exist"},
		{"--issuer-jwks-url=https://issuer.example.com/jwks", "issuer_jwks_url", "issuer_audience"},
		{"--issuer-jwks-url=issuer", "issuer_jwks_url", "must be a URL"},
		{"--issuer=me", "issuer", "nothing to verify"},
		{"--issuer-account-claim=", "issuer_account_claim", "must not be empty"},
		{"--issuer-algorithms=HS256", "issuer_algorithms", "asymmetric"},
		{"--window-months=0", "window_months", "between 1 and 1200"},
		{"--window-months=5000", "window_months", "between 1 and 1200"}, // in hours it would be a negative number
		{"--max-attributes=0", "max_attributes", "between 1 and 10000"},
		{"--max-attributes=20000", "max_attributes", "between 1 and 10000"},
		{"--max-tags=20000", "max_tags", "between 1 and 10000"},
		{"--max-sections=2000000", "max_sections", "between 1 and 1000000"},
		{"--max-pending=200000", "max_pending", "between 1 and 100000"},
		{"--max-rolling-exports=200000", "max_rolling_exports", "between 1 and 100000"},
		{"--max-file-size=1B", "max_file_size", "between 1KiB and"},
		{"--tokens-per-minute=20000000", "tokens_per_minute", "between 1 and 10000000"},
		{"--exports-per-minute=20000000", "exports_per_minute", "between 1 and 10000000"},
		{"--downloads-per-minute=20000000", "downloads_per_minute", "between 1 and 10000000"},
		{"--calls-per-minute=20000000", "calls_per_minute", "between 1 and 10000000"},
		{"--barrier-timeout=0s", "barrier_timeout", "between 1s and"},
		{"--file-lifetime=1s", "file_lifetime", "between 1m0s and"},
		{"--download-url-lifetime=48h", "download_url_lifetime", "24h0m0s"},
		{"--export-parallel=-1", "export_parallel", "must be at least 0"},
		{"--log-level=loud", "log_level", "must be one of debug"},
		{"--log-format=xml", "log_format", "must be one of text"},
	} {
		t.Run(tc.arg, func(t *testing.T) {
			args := []string{tc.arg}
			name, _, _ := strings.Cut(tc.arg, "=")
			for _, l := range least {
				if !strings.HasPrefix(l, name+"=") { // given again, a list would grow
					args = append(args, l)
				}
			}
			_, _, err := loadSettings(flagsOf(t, args...), nil, serveScope)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.key) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("the error %q should name %s and say %q", err, tc.key, tc.want)
			}
		})
	}
}

func TestVariablesOfTheWrongTypeAreRefused(t *testing.T) {
	for variable, want := range map[string]string{
		"LOCKSTITCH_FLUSH_INTERVAL=10": "must be a duration such as 30s",
		"LOCKSTITCH_MAX_PENDING=ten":   "must be a whole number",
		"LOCKSTITCH_PPROF=maybe":       "must be true or false",
		"LOCKSTITCH_MEMORY_LIMIT=-5":   "size such as",
	} {
		_, _, err := loadSettings(flagsOf(t, least...), []string{variable}, serveScope)
		name, _, _ := strings.Cut(variable, "=")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "from "+name) {
			t.Errorf("%s: %v; want %q from %s", variable, err, want, name)
		}
	}
}

func TestFilesAreReadStrictly(t *testing.T) {
	for content, want := range map[string]string{
		"flush_intervall: 3s\n":                           "did you mean flush_interval?",
		"store-url: file:///x\n":                          "did you mean store_url?",
		"flush_interval: [\n":                             "configuration file",
		"issuer_algorithms: {a: b}\n":                     "must be a list of texts",
		"clients: [{id: a, secret: b, acount: c}]\n":      `there is no "acount"`,
		"clients: [{id: a, secret: 12345, account: c}]\n": "quotes",
		"clients: [{id: a, account: c}]\n":                "exactly one of secret",
		"max_pending: [1]\n":                              "must be a whole number",
		"kafka_password: 12345\n":                         "quotes",
		"default_account: 00123\n":                        `default_account is "83": must be text (put it in quotes)`,
		"instance_id: 1e3\n":                              "instance_id",
		"group: true\n":                                   "group",
		"kafka_password: hush\nkafka_password_file: /x\nkafka_sasl_mechanism: PLAIN\nkafka_username: u\n": "both set",
	} {
		_, _, err := loadSettings(flagsOf(t, append(least, "--config="+writeFile(t, "c.yaml", content))...), nil, serveScope)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", content, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: the error shows a secret: %v", content, err)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, _, err := loadSettings(flagsOf(t, "--flush-interval=0s", "--max-pending=0", "--clients=a:geheim:b,a:geheim:c"), nil, serveScope)
	for _, want := range []string{"brokers is not set", "flush_interval", "max_pending", "used twice", "signing_keys is not set"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if strings.Contains(fmt.Sprint(err), "geheim") {
		t.Error("the error shows a secret")
	}
}

// No error shows a secret, however it is written wrong.
func TestErrorsShowNoSecret(t *testing.T) {
	export := "export --start-at 2026-01-01T00:00:00Z --client-id a --client-secret b -o f --url "
	for _, line := range []string{
		`serve --clients a:"hush":b`,
		`serve --signing-keys k1:"hush`,
		`serve --destinations lake:a:s3://hush"@bucket`,
		"serve --public-url https://user:hush@example.com",
		"serve --kafka-oauth-token-url https://user:hush@example.com/%zz",
		"serve --issuer-jwks-url user:hush@example.com",
		"serve --brokers user:hush@localhost:9092",
		"serve --issuer-jwks-url https://example.com/keys?code=hush",
		export + "https://example.com?token=hush",
		export + "https://user:hush@example.com",
		export + "https://user:hush%@example.com",
	} {
		if status, _, errs := command(t.Context(), nil, strings.Fields(line)...); status != 2 || strings.Contains(errs, "hush") {
			t.Errorf("%s: exit %d, %s", line, status, errs)
		}
	}
	// What a flag gives once more is added, and commas separate.
	s, _, err := loadSettings(flagsOf(t, append(least, "--clients=a:s:b,c:s:d", "--clients=e:s:f")...), nil, serveScope)
	if err != nil || len(s.Auth.Clients) != 3 {
		t.Errorf("%v, %v", s, err)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "7": 7, "7B": 7, "2kB": 2000, "2 KiB": 2048, "512MiB": 512 << 20, "1TB": 1e12, "3TiB": 3 << 40} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
		if back, err := ParseBytes(got.String()); err != nil || back != got {
			t.Errorf("%d is written %s, which is read as %d (%v)", got, got, back, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1.5GiB", "9999999999TiB", "MiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestTheDefaultAccountIsOneOfTheAccounts(t *testing.T) {
	args := append([]string{"--default-account=acme", "--accounts=globex"}, least...)
	if _, _, err := loadSettings(flagsOf(t, args...), nil, serveScope); err == nil || !strings.Contains(err.Error(), "not among the accounts") {
		t.Error(err)
	}
	args[1] = "--accounts=globex,acme"
	if _, _, err := loadSettings(flagsOf(t, args...), nil, serveScope); err != nil {
		t.Error(err)
	}
}

// The example file names every setting, with its default, so that it can be
// trusted as documentation.
func TestExampleFileShowsEverySettingWithItsDefault(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/lockstitch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Settings without a useful default are shown behind "#=".
	text := strings.ReplaceAll(string(raw), "\n#= ", "\n")
	fs := flagsOf(t, "--config="+writeFile(t, "all.yaml", text))
	l, err := read(fs, nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := flagsOf(t, "--config=../../deploy/lockstitch.yaml")
	plain, err := read(shown, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		if l.origin[o.key] == "" {
			t.Errorf("%s is missing", o.key)
		}
		if plain.origin[o.key] == "" {
			continue
		}
		v, err := coerce(o.def, plain.k.Get(o.key))
		if err != nil || fmt.Sprint(v) != fmt.Sprint(o.def) {
			t.Errorf("%s is %v (%v), its default is %v", o.key, v, err, o.def)
		}
	}
}

// A file and an environment that serve and other commands share change nothing of
// the options that a command does not have: dev would sweep the store of serve.
func TestWhatACommandDoesNotHaveIsNotSet(t *testing.T) {
	load := func(in scope, environ ...string) *Settings {
		t.Helper()
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		addFlags(fs, in)
		s, _, err := loadSettings(fs, environ, in)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	shared := []string{"LOCKSTITCH_CONFIG=" + writeFile(t, "c.yaml", "store_url: s3://production\nkafka_tls: true\nissuer_jwks_url: https://issuer/jwks\nissuer_algorithms: [HS256]\n"),
		"LOCKSTITCH_STORE_URL=file:///production", "LOCKSTITCH_KAFKA_SASL_MECHANISM=PLAIN", "LOCKSTITCH_INSTANCE_ID=a", "LOCKSTITCH_GROUP=production"}
	if got, want := load(devScope, shared...), load(devScope); !reflect.DeepEqual(got, want) {
		t.Errorf("dev has\n%+v, and on its own\n%+v", got, want)
	}
	// segments looks where serve stores, also when that is its data directory.
	dir := t.TempDir()
	if got, err := storeAddress(load(scopeStore, "LOCKSTITCH_DATA_DIR="+dir).Replica); err != nil || got != "file://"+filepath.ToSlash(dir)+"/objects" {
		t.Errorf("segments looks at %s, %v", got, err)
	}
}

// dev has credentials that everybody knows: whoever wants it to answer others says so.
func TestDevAnswersThisMachineAlone(t *testing.T) {
	null := "LOCKSTITCH_CONFIG=" + writeFile(t, "c.yaml", "http_listen:\n")
	for _, c := range []struct {
		in      scope
		environ string
		want    string
	}{
		{devScope, "", "localhost:8080"}, {devScope, null, "localhost:8080"}, {devScope, "LOCKSTITCH_HTTP_LISTEN=:8080", ":8080"},
		{serveScope, "", ":8080"}, {serveScope, null, ":8080"}, {serveScope, "LOCKSTITCH_HTTP_LISTEN=localhost:1", "localhost:1"},
	} {
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		addFlags(fs, c.in)
		if c.in == serveScope {
			if err := fs.Parse(least); err != nil {
				t.Fatal(err)
			}
		}
		s, _, err := loadSettings(fs, []string{c.environ}, c.in)
		if err != nil || s.HTTP.Listen != c.want {
			t.Errorf("%d, %s: %+v, %v; want %s", c.in, c.environ, s, err, c.want)
		}
		if f := fs.Lookup("http-listen"); c.environ == "" && f.DefValue != c.want {
			t.Errorf("%d: the help says %s, want %s", c.in, f.DefValue, c.want)
		}
	}
	for _, o := range []string{"kafka-listen", "admin-listen"} {
		c, _, err := (&app{}).root().Find([]string{"dev"})
		if err != nil || !strings.HasPrefix(c.Flags().Lookup(o).DefValue, "localhost:") {
			t.Errorf("--%s: %v", o, err)
		}
	}
}

// A load balancer has to see that a replica stops; before dev and demo there is none.
func TestOnlyServeTakesCallsAfterASignal(t *testing.T) {
	for in, want := range map[scope]time.Duration{serveScope: 5 * time.Second, devScope: 0} {
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		addFlags(fs, in)
		if in == serveScope {
			if err := fs.Parse(least); err != nil {
				t.Fatal(err)
			}
		}
		s, _, err := loadSettings(fs, nil, in)
		if err != nil || s.Replica.ShutdownDelay != want {
			t.Errorf("%d: %+v, %v; want %s", in, s, err, want)
		}
	}
}

// What docker-compose.yml gives the replicas is valid, and names no setting that
// does not exist. Its secrets are published: that is warned of, and nothing else.
func TestComposeSettingsAreValid(t *testing.T) {
	opts, err := cli.NewProjectOptions([]string{"../../docker-compose.yml"}, cli.WithName("lockstitch"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	for key, value := range p.Services["lockstitch-1"].Environment {
		v := *value
		if name, ok := strings.CutPrefix(v, "/run/secrets/"); ok {
			v = p.Secrets[name].File
		}
		environ = append(environ, key+"="+v)
	}
	if status, out, errs := command(t.Context(), environ, "serve", "--check-config"); status != 0 || strings.Count(errs, "\n") != 2 ||
		!strings.Contains(errs, "a signing key is the published one") || !strings.Contains(errs, "the secret of a client is the published one") || strings.Contains(errs, published) {
		t.Errorf("exit %d: %s%s", status, out, errs)
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(fs, serveScope)
	s, _, err := loadSettings(fs, environ, serveScope)
	if err != nil {
		t.Fatal(err)
	}
	grace := p.Services["lockstitch-1"].StopGracePeriod
	if least := s.Replica.ShutdownDelay + s.Replica.ShutdownTimeout; grace == nil || time.Duration(*grace) <= least {
		t.Errorf("stop_grace_period %v: a replica may need %s", grace, least)
	}
}

func FuzzYAMLSettings(f *testing.F) {
	f.Add("brokers: [a:1]\nclients: [{id: a, secret: b, account: c}]\nsigning_keys: ['k:x']\n")
	f.Add("flush_interval: 1e9\nmemory_limit: -1\nevents_topics: {}\n")
	f.Add("clients: [[[]]]\nsigning_keys: {a: {b: c}}\n")
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := loadSettings(flagsOf(t, "--config="+path), nil, serveScope)
		if (s == nil) == (err == nil) {
			t.Fatalf("settings %v with error %v", s, err)
		}
	})
}

// Which settings a replica runs with is known wherever they come from, and no secret with them.
func TestSettingsAreStated(t *testing.T) {
	secret := strings.Repeat("hush", 8)
	file := writeFile(t, "c.yaml", "flush_interval: 12s\nstore_url: s3://bucket?region=hush\nkafka_sasl_mechanism: PLAIN\nkafka_username: me@home\nkafka_password: hush\nretention: 9000h\n"+
		"clients:\n- {id: first, secret: "+secret+", account: one}\n- {id: second, secret_sha256: "+strings.Repeat("ab", 32)+", account: two}\n")
	keys := writeFile(t, "keys.yaml", "- {kid: k1, key: "+secret+"}\n")
	env := []string{"LOCKSTITCH_CONFIG=" + file, "LOCKSTITCH_RETENTION=10000h", "LOCKSTITCH_SIGNING_KEYS_FILE=" + keys, "LOCKSTITCH_MAX_PENDING=11"}
	args := []string{"serve", "--brokers=one:1,two:2", "--max-pending=12", "--destinations=lake:acme|b:azblob://lake?sas=hush", "--data-dir=/dev/null/none", "--http-listen=localhost:0", "--admin-listen=localhost:0"}
	want := map[string][2]string{
		"brokers":              {"one:1,two:2", "--brokers"},
		"data_dir":             {"/dev/null/none", "--data-dir"},
		"flush_interval":       {"12s", file},
		"retention":            {"10000h0m0s", "LOCKSTITCH_RETENTION"},
		"max_pending":          {"12", "--max-pending"},
		"store_url":            {"s3://bucket?…", file},
		"destinations":         {"lake:acme|b:azblob://lake?…", "--destinations"},
		"kafka_sasl_mechanism": {"PLAIN", file},
		"http_listen":          {"localhost:0", "--http-listen"},
		"admin_listen":         {"localhost:0", "--admin-listen"},
		"kafka_username":       {"me@home", file},
		"kafka_password":       {"[secret]", file},
		"clients":              {"first:[secret]:one,second:[secret]:two", file},
		"signing_keys":         {"k1:[secret]", "signing_keys_file"},
		"signing_keys_file":    {keys, "LOCKSTITCH_SIGNING_KEYS_FILE"},
	}
	status, out, errs := command(t.Context(), env, append(args, "--print-config")...)
	if status != 0 || errs != "" || strings.Contains(out, "hush") || strings.Contains(out, "abab") {
		t.Fatalf("exit %d: %s%s", status, out, errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 1+len(options) { // serve has them all
		t.Errorf("%d lines for %d settings", len(lines), len(options))
	}
	for _, line := range lines[1:] {
		key, rest, _ := strings.Cut(line, " ")
		if w, ok := want[key]; ok {
			if got := strings.Fields(rest); fmt.Sprint(got) != fmt.Sprint(w) {
				t.Errorf("%s: %q, want %q", key, got, w)
			}
		} else if !strings.HasSuffix(line, "  the default") {
			t.Errorf("nobody has given %s", line)
		}
	}
	// The log at the start tells those that are given. That start fails at once.
	status, _, errs = command(t.Context(), append(env, "LOCKSTITCH_LOG_FORMAT=json"), args...)
	if status != 1 || strings.Contains(errs, "hush") {
		t.Fatalf("exit %d: %s", status, errs)
	}
	want["log_format"] = [2]string{"json", "LOCKSTITCH_LOG_FORMAT"}
	for _, line := range strings.Split(errs, "\n") {
		var said map[string]string
		if !strings.Contains(line, "settings that are given") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &said); err != nil {
			t.Fatal(err)
		}
		for key, w := range want {
			if said[key] != w[0]+" (from "+w[1]+")" {
				t.Errorf("the log says %s: %s, want %v", key, said[key], w)
			}
		}
		if len(said) != len(want)+3 { // time, level, msg
			t.Errorf("%d settings in the log, want %d: %s", len(said)-3, len(want), line)
		}
		return
	}
	t.Errorf("the log does not say which settings are given: %s", errs)
}
