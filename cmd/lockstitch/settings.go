package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"lockstitch/state/kafka"
)

// Settings is everything that can be configured, as plain values. options.go
// lists each with its key, default, bounds and help; load.go fills it.
type Settings struct {
	Kafka   KafkaSettings   `koanf:",squash"`
	Topics  TopicSettings   `koanf:",squash"`
	Replica ReplicaSettings `koanf:",squash"`
	HTTP    HTTPSettings    `koanf:",squash"`
	Auth    AuthSettings    `koanf:",squash"`
	Limits  LimitSettings   `koanf:",squash"`
	Log     LogSettings     `koanf:",squash"`

	stated []stated // those in scope, as they were loaded
}

// KafkaSettings say how to reach the brokers.
type KafkaSettings struct {
	Brokers               []string     `koanf:"brokers"`
	ClientID              string       `koanf:"kafka_client_id"`
	TLS                   bool         `koanf:"kafka_tls"`
	TLSCAFile             string       `koanf:"kafka_tls_ca_file"`
	TLSCertFile           string       `koanf:"kafka_tls_cert_file"`
	TLSKeyFile            string       `koanf:"kafka_tls_key_file"`
	TLSServerName         string       `koanf:"kafka_tls_server_name"`
	SASLMechanism         string       `koanf:"kafka_sasl_mechanism"`
	Username              string       `koanf:"kafka_username"`
	Password              kafka.Secret `koanf:"kafka_password"`
	PasswordFile          string       `koanf:"kafka_password_file"`
	OAuthTokenFile        string       `koanf:"kafka_oauth_token_file"`
	OAuthTokenURL         string       `koanf:"kafka_oauth_token_url"`
	OAuthClientID         string       `koanf:"kafka_oauth_client_id"`
	OAuthClientSecret     kafka.Secret `koanf:"kafka_oauth_client_secret"`
	OAuthClientSecretFile string       `koanf:"kafka_oauth_client_secret_file"`
	OAuthScopes           []string     `koanf:"kafka_oauth_scopes"`
}

// Config is the connection these settings describe.
func (k KafkaSettings) Config() kafka.Config {
	return kafka.Config{
		Brokers: k.Brokers, ClientID: k.ClientID,
		TLS: k.TLS, TLSCAFile: k.TLSCAFile, TLSCertFile: k.TLSCertFile, TLSKeyFile: k.TLSKeyFile, TLSServerName: k.TLSServerName,
		SASLMechanism: k.SASLMechanism, Username: k.Username, Password: k.Password, PasswordFile: k.PasswordFile,
		OAuthTokenFile: k.OAuthTokenFile, OAuthTokenURL: k.OAuthTokenURL, OAuthClientID: k.OAuthClientID,
		OAuthClientSecret: k.OAuthClientSecret, OAuthClientSecretFile: k.OAuthClientSecretFile, OAuthScopes: k.OAuthScopes,
	}
}

// TopicSettings name the topics.
type TopicSettings struct {
	Events      []string `koanf:"events_topics"`
	Profiles    string   `koanf:"profiles_topic"`
	Definitions string   `koanf:"definitions_topic"`
	Catalog     string   `koanf:"catalog_topic"`
	Reports     string   `koanf:"reports_topic"`
	DeadLetters string   `koanf:"dead_letters_topic"`
}

// ReplicaSettings say what a replica keeps and how it consumes.
type ReplicaSettings struct {
	Group              string        `koanf:"group"`
	InstanceID         string        `koanf:"instance_id"`
	DataDir            string        `koanf:"data_dir"`
	StoreURL           string        `koanf:"store_url"`
	Destinations       []Destination `koanf:"destinations"`
	DefaultAccount     string        `koanf:"default_account"`
	Accounts           []string      `koanf:"accounts"`
	MemoryLimit        Bytes         `koanf:"memory_limit"`
	FlushInterval      time.Duration `koanf:"flush_interval"`
	DedupHorizon       time.Duration `koanf:"dedup_horizon"`
	Retention          time.Duration `koanf:"retention"`
	SessionTimeout     time.Duration `koanf:"session_timeout"`
	TransactionTimeout time.Duration `koanf:"transaction_timeout"`
	StartTimeout       time.Duration `koanf:"start_timeout"`
	ShutdownDelay      time.Duration `koanf:"shutdown_delay"`
	ShutdownTimeout    time.Duration `koanf:"shutdown_timeout"`

	writerSuffix string // set by dev; see consumer.Config
}

// HTTPSettings are the two listeners.
type HTTPSettings struct {
	Listen      string `koanf:"http_listen"`
	PublicURL   string `koanf:"public_url"`
	TLSCertFile string `koanf:"http_tls_cert_file"`
	TLSKeyFile  string `koanf:"http_tls_key_file"`
	AdminListen string `koanf:"admin_listen"`
	Pprof       bool   `koanf:"pprof"`

	ownNames bool // set by dev; see ownNames
}

// AuthSettings say who may call the API.
type AuthSettings struct {
	Clients          []Client     `koanf:"clients"`
	ClientsFile      string       `koanf:"clients_file"`
	SigningKeys      []SigningKey `koanf:"signing_keys"`
	SigningKeysFile  string       `koanf:"signing_keys_file"`
	IssuerJWKSURL    string       `koanf:"issuer_jwks_url"`
	Issuer           string       `koanf:"issuer"`
	IssuerAudience   string       `koanf:"issuer_audience"`
	IssuerAccount    string       `koanf:"issuer_account_claim"`
	IssuerAlgorithms []string     `koanf:"issuer_algorithms"`
}

// LimitSettings are the limits of the contract, section 3.
type LimitSettings struct {
	WindowMonths        int           `koanf:"window_months"`
	MaxAttributes       int           `koanf:"max_attributes"`
	MaxTags             int           `koanf:"max_tags"`
	MaxSections         int           `koanf:"max_sections"`
	MaxPending          int           `koanf:"max_pending"`
	MaxReportsSize      Bytes         `koanf:"max_reports_size"`
	MaxRolling          int           `koanf:"max_rolling_exports"`
	MaxFileSize         Bytes         `koanf:"max_file_size"`
	TokensPerMinute     int           `koanf:"tokens_per_minute"`
	ExportsPerMinute    int           `koanf:"exports_per_minute"`
	DownloadsPerMinute  int           `koanf:"downloads_per_minute"`
	CallsPerMinute      int           `koanf:"calls_per_minute"`
	BarrierTimeout      time.Duration `koanf:"barrier_timeout"`
	FileLifetime        time.Duration `koanf:"file_lifetime"`
	DownloadURLLifetime time.Duration `koanf:"download_url_lifetime"`
	MaxRendering        int           `koanf:"max_rendering"`
	ExportParallel      int           `koanf:"export_parallel"`
}

// LogSettings shape what is written to standard error.
type LogSettings struct {
	Level  string `koanf:"log_level"`
	Format string `koanf:"log_format"`
}

// TopicNames are the topics these settings name.
func (t TopicSettings) TopicNames() kafka.Topics {
	return kafka.Topics{Events: t.Events, Profiles: t.Profiles, Definitions: t.Definitions,
		Catalog: t.Catalog, Reports: t.Reports, DeadLetters: t.DeadLetters}
}

// Client may ask for tokens of one account. Exactly one of Secret, SecretFile
// and SecretSHA256 is set.
type Client struct {
	ID           string       `koanf:"id"`
	Secret       kafka.Secret `koanf:"secret"`
	SecretFile   string       `koanf:"secret_file"`
	SecretSHA256 string       `koanf:"secret_sha256"` // hex
	Account      string       `koanf:"account"`
}

// SigningKey signs tokens (the first of a list) or still verifies them (the
// others). Exactly one of Key and KeyFile is set.
type SigningKey struct {
	KID     string       `koanf:"kid"`
	Key     kafka.Secret `koanf:"key"` // at least auth.MinKeyBytes
	KeyFile string       `koanf:"key_file"`
}

// parseClient reads ID:SECRET:ACCOUNT, where SECRET may also be sha256:<hex>.
// The id ends at the first colon, the account starts after the last.
func parseClient(s string) (Client, error) {
	first, last := strings.Index(s, ":"), strings.LastIndex(s, ":")
	if first < 1 || last <= first+1 || last == len(s)-1 {
		return Client{}, fmt.Errorf("a client is written ID:SECRET:ACCOUNT, none of them empty")
	}
	c := Client{ID: s[:first], Account: s[last+1:]}
	if hash, ok := strings.CutPrefix(s[first+1:last], "sha256:"); ok {
		c.SecretSHA256 = hash
	} else {
		c.Secret = kafka.Secret(s[first+1 : last])
	}
	return c, nil
}

// parseSigningKey reads KID:KEY.
func parseSigningKey(s string) (SigningKey, error) {
	kid, key, ok := strings.Cut(s, ":")
	if !ok || kid == "" || key == "" {
		return SigningKey{}, fmt.Errorf("a signing key is written KID:KEY, neither of them empty")
	}
	return SigningKey{KID: kid, Key: kafka.Secret(key)}, nil
}

// Bytes is a size. It is written as a number of bytes or with a unit: kB MB GB
// TB are powers of 1000, KiB MiB GiB TiB powers of 1024.
type Bytes int64

var units = []struct {
	suffix string
	factor int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// ParseBytes reads what String writes, and plain numbers.
func ParseBytes(s string) (Bytes, error) {
	text, factor := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if cut, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(cut), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf("%q is not a size such as 512MiB", s)
	}
	return Bytes(n * factor), nil
}

// String writes the size with the greatest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range units[:4] {
		if b > 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
