package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lockstitch/exporter/auth"
)

// Config is what an operator decides about the API. Zero fields take the
// defaults named beside them; PublicURL and SigningKeys have none.
type Config struct {
	// PublicURL is how clients reach this API: scheme, host and perhaps a path
	// that a proxy takes off, without a slash at the end. All URLs in answers
	// begin with it.
	PublicURL   string
	Clients     []auth.Client
	SigningKeys []auth.Key // the first signs, all verify
	Issuers     []auth.Issuer
	IssuerHTTP  *http.Client // reads the issuers' keys; nil: a plain one
	Limits      Limits

	FileLifetime       time.Duration // of files; 7 days
	DownloadLifetime   time.Duration // of the credential in a download URL; 15m
	BarrierTimeout     time.Duration // a report waits this long for its barrier; 20m
	KafkaTimeout       time.Duration // a question to Kafka may take this long, then 503; 5s
	ActivityWindow     time.Duration // how far back activities are looked for; activityDays
	ActivityTimeout    time.Duration // reading them may take this long, then 503; 15s
	ActivityCacheBytes int64         // memory for summaries of what is stored; 32 MiB
	ActivitySumBytes   int64         // memory for what is summed up for activities, for all calls together; 16 MiB
	ActivityReads      int           // slices read at a time, for all calls together; 32
}

const (
	// callsToADearOne: of so many calls of an account one may be of those that cost
	// much: what writes about a report or an order, for which all brokers and replicas
	// work, and what reads stored events for activities.
	callsToADearOne = 10
	// activitiesAtOnce is how many calls for activities an account may have under way.
	// Each asks for ActivityReads slices at a time, and who reads next goes in turn.
	activitiesAtOnce = 2
	// listsAtOnce is how many lists of reports, of rolling exports and of their files an
	// account may have under way. Each holds up to report.PageBytes of requests, a few times over, until
	// its reader has taken them.
	listsAtOnce = 4
	// waitingForAnOrder: so many calls of an account may wait for a file, for each
	// rolling export that it may have.
	waitingForAnOrder = 3
)

// Limits are the limits of contract section 3 and a few of our own, each with its
// default.
type Limits struct {
	WindowMonths       int   // calendar months an export may span; 3
	Attributes         int   // attribute columns; 75
	Tags               int   // tag columns; 25
	Sections           int   // sections defined on the account; 25
	Pending            int   // exports of an account without result, over all replicas; 10
	ReportsBytes       int64 // what an account's reports and rolling exports may take of every replica's memory; 64 MiB
	AllReportsBytes    int64 // what those of all accounts may, as room divides it; 96 MiB
	RollingExports     int   // rolling exports of an account; 20
	TokensPerMinute    int   // token calls of a client; 10
	ExportsPerMinute   int   // export requests of an account; 60
	DownloadsPerMinute int   // downloads of an account, and as many under way; 60
	CallsPerMinute     int   // calls of an account, token calls and downloads excepted; 3000
	BodyBytes          int64 // of a request's body; 100,000
}

// activityDays is how far back activities are looked for, in days, as answers say it.
const activityDays = 90

func (c Config) withDefaults() Config {
	def(&c.FileLifetime, 7*24*time.Hour)
	def(&c.DownloadLifetime, 15*time.Minute)
	def(&c.BarrierTimeout, 20*time.Minute)
	def(&c.KafkaTimeout, 5*time.Second)
	def(&c.ActivityWindow, activityDays*24*time.Hour)
	def(&c.ActivityTimeout, 15*time.Second)
	def(&c.ActivityCacheBytes, 32<<20)
	def(&c.ActivitySumBytes, 16<<20)
	def(&c.ActivityReads, 32)
	def(&c.Limits.WindowMonths, 3)
	def(&c.Limits.Attributes, 75)
	def(&c.Limits.Tags, 25)
	def(&c.Limits.Sections, 25)
	def(&c.Limits.Pending, 10)
	def(&c.Limits.ReportsBytes, 64<<20)
	def(&c.Limits.AllReportsBytes, 96<<20)
	def(&c.Limits.RollingExports, 20)
	def(&c.Limits.TokensPerMinute, 10)
	def(&c.Limits.ExportsPerMinute, 60)
	def(&c.Limits.DownloadsPerMinute, 60)
	def(&c.Limits.CallsPerMinute, 3000)
	def(&c.Limits.BodyBytes, 100_000)
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate says everything that is wrong with a configuration, zero fields
// taken for their defaults.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if err := validatePublicURL(c.PublicURL); err != nil {
		errs = append(errs, err)
	}
	if _, err := auth.New(auth.Config{Clients: c.Clients, Keys: c.SigningKeys, Issuers: c.Issuers}); err != nil {
		errs = append(errs, err)
	}
	for _, b := range []struct {
		key      string
		value    int64
		min, max int64
	}{
		{"limits.window_months", int64(c.Limits.WindowMonths), 1, 1200},
		{"limits.attributes", int64(c.Limits.Attributes), 1, 10_000},
		{"limits.tags", int64(c.Limits.Tags), 1, 10_000},
		{"limits.sections", int64(c.Limits.Sections), 1, 1_000_000},
		{"limits.pending", int64(c.Limits.Pending), 1, 100_000},
		{"limits.reports_bytes", c.Limits.ReportsBytes, 1, 1 << 40},
		{"limits.all_reports_bytes", c.Limits.AllReportsBytes, 1, 1 << 40},
		{"limits.rolling_exports", int64(c.Limits.RollingExports), 1, 100_000},
		{"limits.tokens_per_minute", int64(c.Limits.TokensPerMinute), 1, 10_000_000},
		{"limits.exports_per_minute", int64(c.Limits.ExportsPerMinute), 1, 10_000_000},
		{"limits.downloads_per_minute", int64(c.Limits.DownloadsPerMinute), 1, 10_000_000},
		{"limits.calls_per_minute", int64(c.Limits.CallsPerMinute), 1, 10_000_000},
		{"limits.body_bytes", c.Limits.BodyBytes, 1_000, 10_000_000},
		{"activity_cache_bytes", c.ActivityCacheBytes, 1, 1 << 40},
		{"activity_sum_bytes", c.ActivitySumBytes, 1, 1 << 40},
		{"activity_reads", int64(c.ActivityReads), 1, 1024},
	} {
		if b.value < b.min || b.value > b.max {
			errs = append(errs, fmt.Errorf("%s is %d; it must be %d to %d", b.key, b.value, b.min, b.max))
		}
	}
	for _, b := range []struct {
		key      string
		value    time.Duration
		min, max time.Duration
	}{
		{"file_lifetime", c.FileLifetime, time.Minute, 400 * 24 * time.Hour},
		{"download_lifetime", c.DownloadLifetime, time.Second, 24 * time.Hour},
		{"barrier_timeout", c.BarrierTimeout, time.Second, 24 * time.Hour},
		{"kafka_timeout", c.KafkaTimeout, 10 * time.Millisecond, time.Minute},
		{"activity_window", c.ActivityWindow, time.Hour, 10 * 366 * 24 * time.Hour},
		{"activity_timeout", c.ActivityTimeout, 10 * time.Millisecond, 10 * time.Minute},
	} {
		if b.value < b.min || b.value > b.max {
			errs = append(errs, fmt.Errorf("%s is %s; it must be %s to %s", b.key, b.value, b.min, b.max))
		}
	}
	return errors.Join(errs...)
}

func validatePublicURL(s string) error {
	if s == "" {
		return errors.New("public_url is missing; it is how clients reach the API, such as https://exports.example.com")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return fmt.Errorf("public_url %q is not an http or https URL", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/") || strings.ContainsAny(s, "?#"):
		return fmt.Errorf("public_url %q must be scheme, host and perhaps a path, without user, query, fragment and slash at the end", s)
	}
	return nil
}
