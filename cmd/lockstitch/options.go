package main

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lockstitch/state/event"
	"lockstitch/state/kafka"
)

// option is one setting: key in the YAML file; flag --key-with-dashes; variable
// LOCKSTITCH_KEY. The type of def is the type of the setting.
type option struct {
	key    string
	def    any
	help   string
	bound  bound // nil: any value of the type
	scope  scope
	hidden bool // not shown in logs: a secret
}

// scope says which commands know an option.
type scope uint8

const (
	scopeKafka   scope = 1 << iota // whoever talks to a cluster: serve, topics, segments, sample
	scopeTopics                    // whoever needs the names of the topics
	scopeStore                     // whoever reads the object store
	scopeReplica                   // serve and dev
	scopeServe                     // serve only: dev brings its own
	scopeAdmin                     // whoever asks a replica how it is
)

// bound says what is wrong with a value, or "" if nothing is.
type bound func(v any) string

var none bound

func atLeast(n int) bound {
	return func(v any) string {
		if v.(int) < n {
			return "must be at least " + strconv.Itoa(n)
		}
		return ""
	}
}

func between(lo, hi int) bound {
	return func(v any) string {
		if n := v.(int); n < lo || n > hi {
			return fmt.Sprintf("must be between %d and %d", lo, hi)
		}
		return ""
	}
}

func span(lo, hi time.Duration) bound {
	return func(v any) string {
		if d := v.(time.Duration); d < lo || d > hi {
			return fmt.Sprintf("must be between %s and %s", lo, hi)
		}
		return ""
	}
}

func size(lo, hi Bytes) bound {
	return func(v any) string {
		if b := v.(Bytes); b < lo || b > hi {
			return fmt.Sprintf("must be between %s and %s", lo, hi)
		}
		return ""
	}
}

func oneOf(values ...string) bound {
	return func(v any) string {
		for _, w := range values {
			if strings.EqualFold(v.(string), w) {
				return ""
			}
		}
		return "must be one of " + strings.TrimPrefix(strings.Join(values, ", "), ", ")
	}
}

func atMostBytes(n int) bound {
	return func(v any) string {
		if len(v.(string)) > n {
			return fmt.Sprintf("must have at most %d bytes", n)
		}
		return ""
	}
}

func accountNames(v any) string {
	for _, name := range v.([]string) {
		if name == "" || len(name) > event.MaxAccountID {
			return fmt.Sprintf("must name accounts of 1 to %d bytes", event.MaxAccountID)
		}
	}
	return ""
}

func given(v any) string {
	if s, ok := v.(string); ok && strings.TrimSpace(s) == "" {
		return "must not be empty"
	}
	if l, ok := v.([]string); ok && len(l) == 0 {
		return "must name at least one"
	}
	return ""
}

// topicName is Kafka's own rule.
func topicName(v any) string {
	names, ok := v.([]string)
	if !ok {
		names = []string{v.(string)}
	}
	if len(names) == 0 {
		return "must name at least one"
	}
	seen := make(map[string]bool)
	for _, n := range names {
		if n == "" || len(n) > 249 || n == "." || n == ".." || strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return "must be 1 to 249 letters, digits, dots, underscores or dashes"
		}
		if seen[n] {
			return "names " + n + " twice"
		}
		seen[n] = true
	}
	return ""
}

func brokerList(v any) string {
	if len(v.([]string)) == 0 {
		return "must name at least one broker as host:port"
	}
	for _, a := range v.([]string) {
		host, port, err := net.SplitHostPort(a)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
			return "must be host:port, separated by commas"
		}
	}
	return ""
}

func listenAddress(v any) string {
	_, port, err := net.SplitHostPort(v.(string))
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 {
		return "must be host:port or :port (port 0: any free one)"
	}
	return ""
}

func httpURL(v any) string {
	s := v.(string)
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "must be a URL such as https://export.example.com, without query or fragment"
	}
	return ""
}

func storeURL(v any) string {
	s := v.(string)
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" {
		return "must be a URL: file:///path, s3://bucket, gs://bucket or azblob://container"
	}
	switch u.Scheme {
	case "file", "s3", "gs", "azblob":
		return ""
	}
	return "must be a URL with scheme file, s3, gs or azblob"
}

// options is the table of all settings, in the order in which help, the example
// file and errors show them.
var options = []option{
	{"brokers", []string{}, "Kafka brokers to start from, host:port, separated by commas", brokerList, scopeKafka, false},
	{"kafka_client_id", "lockstitch", "name of this client in the brokers' logs and quotas", given, scopeKafka, false},
	{"kafka_tls", false, "speak TLS with the brokers (implied by any of the TLS files)", none, scopeKafka, false},
	{"kafka_tls_ca_file", "", "PEM file of the authority that signed the brokers' certificates (default: the system's roots); read again at every connection", none, scopeKafka, false},
	{"kafka_tls_cert_file", "", "PEM file of the client certificate, for mutual TLS; read again at every connection", none, scopeKafka, false},
	{"kafka_tls_key_file", "", "PEM file of the client certificate's key", none, scopeKafka, false},
	{"kafka_tls_server_name", "", "name expected in the brokers' certificates (default: the host that is dialled)", none, scopeKafka, false},
	{"kafka_sasl_mechanism", "", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER (default: no authentication)", oneOf("", kafka.SASLPlain, kafka.SASLScram256, kafka.SASLScram512, kafka.SASLOAuthBearer), scopeKafka, false},
	{"kafka_username", "", "user of PLAIN and SCRAM", none, scopeKafka, false},
	{"kafka_password", kafka.Secret(""), "password of PLAIN and SCRAM", none, scopeKafka, true},
	{"kafka_password_file", "", "file that holds the password; read again at every connection", none, scopeKafka, false},
	{"kafka_oauth_token_file", "", "file that holds the OAUTHBEARER token; read again at every connection", none, scopeKafka, false},
	{"kafka_oauth_token_url", "", "endpoint that issues OAUTHBEARER tokens by client credentials", httpURL, scopeKafka, false},
	{"kafka_oauth_client_id", "", "client id for the token endpoint", none, scopeKafka, false},
	{"kafka_oauth_client_secret", kafka.Secret(""), "client secret for the token endpoint", none, scopeKafka, true},
	{"kafka_oauth_client_secret_file", "", "file that holds the client secret; read again for every token", none, scopeKafka, false},
	{"kafka_oauth_scopes", []string{}, "scopes to ask the token endpoint for, separated by commas", none, scopeKafka, false},

	{"events_topics", kafka.DefaultTopics().Events, "topics of e-mail events, separated by commas; all with as many partitions as the profiles", topicName, scopeTopics, false},
	{"profiles_topic", kafka.DefaultTopics().Profiles, "topic of profiles, compacted", topicName, scopeTopics, false},
	{"definitions_topic", kafka.DefaultTopics().Definitions, "topic of definitions, compacted, one partition", topicName, scopeTopics, false},
	{"catalog_topic", kafka.DefaultTopics().Catalog, "topic of segments and positions, compacted, one partition; belongs to Lockstitch", topicName, scopeTopics, false},
	{"reports_topic", kafka.DefaultTopics().Reports, "topic of export requests and results, compacted; belongs to Lockstitch", topicName, scopeTopics, false},
	{"dead_letters_topic", kafka.DefaultTopics().DeadLetters, "topic of records that could not be used", topicName, scopeTopics, false},

	{"group", "lockstitch", "consumer group, the same on all replicas that share a catalog, and of no other system, beside which a replica does not start; a changed one waits until that before it has no members", given, scopeServe, false},
	{"instance_id", "", "unique, stable name of this replica in the group: it then keeps its partitions over a restart shorter than session_timeout (default: none; it leaves the group when it stops)", none, scopeServe, false},
	{"data_dir", "lockstitch-data", "directory of the local state; a cache that may be lost", given, scopeReplica | scopeStore, false},
	{"store_url", "", "object store: file:///path, s3://bucket?region=…, gs://bucket, azblob://container (default: file:// in the data directory)", storeURL, scopeStore, true},
	{"destinations", []Destination{}, "stores that files of rolling exports may be delivered to: NAME:ACCOUNT|ACCOUNT:URL, separated by commas; in YAML a list of {name, accounts, url}; the same on all replicas", none, scopeReplica, true},
	{"default_account", "", "account of events that name none, the same on all replicas (default: such events are set aside)", atMostBytes(event.MaxAccountID), scopeReplica, false},
	{"accounts", []string{}, "accounts whose events are kept, separated by commas, the same on all replicas; those of others are set aside (default: all are kept)", accountNames, scopeReplica, false},
	{"memory_limit", Bytes(512 << 20), "resident memory to stay within; buffers and caches are derived from it", size(128<<20, 1<<40), scopeReplica, false},
	{"flush_interval", 30 * time.Second, "longest time an event waits before it is made durable; exports do not wait for it", span(100*time.Millisecond, time.Hour), scopeReplica, false},
	{"dedup_horizon", 7 * 24 * time.Hour, "how long after an event a repeated one is recognised; the same on all replicas", span(time.Minute, 90*24*time.Hour), scopeReplica, false},
	{"retention", 400 * 24 * time.Hour, "how long after its newest event a stored segment is removed; at least window_months and dedup_horizon together; the same on all replicas", span(24*time.Hour, 200*366*24*time.Hour), scopeReplica, false},
	{"session_timeout", 10 * time.Second, "silence after which the group gives a replica's work to others", span(6*time.Second, 5*time.Minute), scopeReplica, false},
	{"transaction_timeout", 10 * time.Second, "time after which the brokers end the transaction of a replica that died in it", span(time.Second, 15*time.Minute), scopeReplica, false},
	{"start_timeout", 60 * time.Second, "how long a replica that starts waits for a broker, then for the answers to what it asks, and for more of the catalog to come", span(time.Second, 10*time.Minute), scopeReplica, false},
	{"shutdown_delay", 5 * time.Second, "how long calls are still taken after SIGTERM, until load balancers that ask /readyz send no more", span(0, 5*time.Minute), scopeReplica, false},
	{"shutdown_timeout", 30 * time.Second, "longest time that downloads in flight may take after shutdown_delay; the last cut has 10s of its own beside both", span(time.Second, 10*time.Minute), scopeReplica, false},

	{"http_listen", ":8080", "address of the API, host:port", listenAddress, scopeReplica, false},
	{"public_url", "", "URL at which clients reach the API; download URLs are built from it (default: http://localhost and the port)", httpURL, scopeReplica, false},
	{"http_tls_cert_file", "", "PEM file of the API's certificate; without it the API speaks plain HTTP", none, scopeReplica, false},
	{"http_tls_key_file", "", "PEM file of its key", none, scopeReplica, false},
	{"admin_listen", "localhost:9644", "address of /metrics, /healthz and /readyz, host:port", listenAddress, scopeReplica | scopeAdmin, false},
	{"pprof", false, "serve /debug/pprof/ on the admin address", none, scopeReplica, false},

	{"clients", []Client{}, "who may ask for tokens: ID:SECRET:ACCOUNT or ID:sha256:HEX:ACCOUNT, separated by commas; in YAML a list of {id, secret | secret_file | secret_sha256, account}", none, scopeServe, true},
	{"clients_file", "", "YAML file that holds the list of clients", none, scopeServe, false},
	{"signing_keys", []SigningKey{}, "keys of tokens and cursors, the same on all replicas: KID:KEY, separated by commas; the first signs, the others still verify; in YAML a list of {kid, key | key_file}", none, scopeServe, true},
	{"signing_keys_file", "", "YAML file that holds the list of signing keys", none, scopeServe, false},
	{"issuer_jwks_url", "", "JWKS of an external issuer whose tokens are accepted too", httpURL, scopeServe, false},
	{"issuer", "", "iss that its tokens must carry", none, scopeServe, false},
	{"issuer_audience", "", "aud that its tokens must carry", none, scopeServe, false},
	{"issuer_account_claim", "account_id", "claim that holds the account", given, scopeServe, false},
	{"issuer_algorithms", []string{"RS256", "ES256"}, "signature algorithms accepted from it", given, scopeServe, false},

	{"window_months", 3, "longest window of an export, calendar months", between(1, 1200), scopeReplica, false},
	{"max_attributes", 75, "attribute columns of one export", between(1, 10_000), scopeReplica, false},
	{"max_tags", 25, "tag columns of one export", between(1, 10_000), scopeReplica, false},
	{"max_sections", 25, "sections an account may have and still export", between(1, 1_000_000), scopeReplica, false},
	{"max_pending", 10, "unfinished exports of one account, over all replicas", between(1, 100_000), scopeReplica, false},
	{"max_reports_size", Bytes(64 << 20), "what reports and rolling exports of one account, with all files that these will have, may take of every replica's memory; those of all accounts may take three sixteenths of memory_limit, those of one three quarters of that; its last eighth is for accounts with at most 1MiB", size(1<<20, 1<<40), scopeReplica, false},
	{"max_rolling_exports", 20, "rolling exports one account may have", between(1, 100_000), scopeReplica, false},
	{"max_file_size", Bytes(2 << 30), "size of one file, compressed", size(1<<10, 64<<30), scopeReplica, false},
	{"tokens_per_minute", 10, "token calls of one client to one replica", between(1, 10_000_000), scopeReplica, false},
	{"exports_per_minute", 60, "export requests of one account to one replica", between(1, 10_000_000), scopeReplica, false},
	{"downloads_per_minute", 60, "downloads of one account from one replica, and as many under way", between(1, 10_000_000), scopeReplica, false},
	{"calls_per_minute", 3000, "API calls of one account to one replica, token calls and downloads excepted; a tenth of them may cancel, delete, pause, resume or ask for activities", between(1, 10_000_000), scopeReplica, false},
	{"barrier_timeout", 20 * time.Minute, "longest time an export waits for the events acknowledged before it", span(time.Second, 24*time.Hour), scopeReplica, false},
	{"file_lifetime", 7 * 24 * time.Hour, "how long a finished file is kept", span(time.Minute, 400*24*time.Hour), scopeReplica, false},
	{"download_url_lifetime", 15 * time.Minute, "how long a download URL works; asking for the status again makes a new one", span(time.Second, 24*time.Hour), scopeReplica, false},
	{"max_rendering", 0, "exports that a replica renders at once, beside one file of a rolling export (0: one for each processor, 2 at least, as far as a quarter of memory_limit goes)", atLeast(0), scopeReplica, false},
	{"export_parallel", 0, "pieces of an export rendered at once (0: one for each processor)", atLeast(0), scopeReplica, false},

	{"log_level", "info", "debug, info, warn or error", oneOf("debug", "info", "warn", "error"), scopeKafka | scopeReplica, false},
	{"log_format", "text", "text or json", oneOf("text", "json"), scopeKafka | scopeReplica, false},
}

// in is the option as the commands of a scope have it: dev has credentials that
// everybody knows, and answers this machine alone unless it is told otherwise. No load
// balancer sends it calls.
func (o option) in(in scope) option {
	switch {
	case in&scopeServe != 0:
	case o.key == "http_listen":
		o.def = "localhost:8080"
	case o.key == "shutdown_delay":
		o.def = time.Duration(0)
	}
	return o
}

func optionByKey(key string) (option, bool) {
	for _, o := range options {
		if o.key == key {
			return o, true
		}
	}
	return option{}, false
}

func (o option) flag() string     { return strings.ReplaceAll(o.key, "_", "-") }
func (o option) variable() string { return envPrefix + strings.ToUpper(o.key) }
