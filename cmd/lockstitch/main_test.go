package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs one command line in this process.
func command(ctx context.Context, environ []string, args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(ctx, &app{out: &o, err: &e, environ: environ}, args)
	return status, o.String(), e.String()
}

// every calls fn for all commands, root included.
func every(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, child := range c.Commands() {
		every(child, fn)
	}
}

func TestTheFixedCommandsAndFlagsExist(t *testing.T) {
	flags := map[string]string{
		"demo":            "",
		"dev":             "data-dir kafka-listen http-listen admin-listen sample client",
		"serve":           "brokers store-url data-dir http-listen admin-listen public-url config check-config",
		"topics create":   "brokers partitions replication-factor",
		"topics check":    "brokers",
		"topics adopt":    "brokers",
		"export":          "url start-at end-at after output",
		"segments ls":     "brokers store-url",
		"segments verify": "brokers store-url",
		"segments dump":   "store-url",
		"version":         "",
	}
	for name, want := range flags {
		c, rest, err := (&app{}).root().Find(strings.Fields(name))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: %v %v", name, rest, err)
			continue
		}
		for _, f := range strings.Fields(want) {
			if c.Flags().Lookup(f) == nil {
				t.Errorf("%s has no --%s", name, f)
			}
		}
	}
}

func TestEverySettingIsAFlagOfServe(t *testing.T) {
	c, _, err := (&app{}).root().Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		f := c.Flags().Lookup(o.flag())
		if f == nil || f.Usage != o.help || o.help == "" {
			t.Errorf("serve has no --%s, or no help for it", o.flag())
		}
	}
}

// A secret on the command line can be seen by every user of the machine:
// whatever takes one also takes a file.
func TestEverySecretCanBeAFile(t *testing.T) {
	every((&app{}).root(), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			switch f.Name {
			case "kafka-password", "kafka-oauth-client-secret", "clients", "signing-keys", "client-secret":
				if c.Flags().Lookup(f.Name+"-file") == nil {
					t.Errorf("%s has --%s and no --%s-file", c.Name(), f.Name, f.Name)
				}
			}
		})
	})
}

func TestHelpTeaches(t *testing.T) {
	ctx := context.Background()
	every((&app{}).root(), func(c *cobra.Command) {
		name := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "lockstitch"), " ")
		if c.Hidden || name == "help" {
			return
		}
		status, out, errs := command(ctx, nil, append(strings.Fields(name), "--help")...)
		if status != 0 || errs != "" {
			t.Errorf("%s --help: exit %d, %s", name, status, errs)
		}
		if !strings.Contains(out, "Usage:") || c.Short == "" {
			t.Errorf("%s --help says too little:\n%s", name, out)
		}
		if c.HasSubCommands() || name == "version" {
			return
		}
		if !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help has no example", name)
		}
		// Every flag of every example exists.
		for _, f := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(c.Example, -1) {
			if c.Flags().Lookup(f[2:]) == nil {
				t.Errorf("%s: the example uses %s, which does not exist", name, f)
			}
		}
	})
}

func TestWrongUsageIsExit2AndSaysWhatToDo(t *testing.T) {
	ctx := context.Background()
	for line, want := range map[string]string{
		"srve":             "did you mean serve?",
		"topics chek":      "did you mean check?",
		"serve --flush 1s": "lockstitch serve --help",
		"serve extra":      "lockstitch serve --help",
		"serve":            "LOCKSTITCH_BROKERS",
		"topics create":    "brokers is not set",
		"topics create --brokers a:1 --partitions 0": "at least 1",
		"topics check --brokers nonsense":            "host:port",
		"export":                                     "--start-at",
		"export --url x --client-id a --client-secret b --start-at 2026-01-01T00:00:00Z -o f":                   "must be a URL",
		"export --url http://x --client-id a --client-secret b --start-at yesterday -o f":                       "RFC 3339",
		"export --url http://x --client-id a --client-secret b --start-at 2026-01-01T00:00:00Z --filter a -o f": "go together",
		"export --url http://x --client-id a --client-secret b --start-at 2026-01-01T00:00:00Z --after x -o f":  "--start-at and --after do not go together",
		"export --url http://x --client-id a --client-secret b --after x --cursor-file y -o f":                  "do not go together",
		"export --url http://x --client-id a --client-secret b --after x --end-at 2026-01-01T00:00:00Z -o f":    "--end-at goes with --start-at only",
		"segments dump":                    "arg",
		"dev --partitions 0":               "1 to 1000",
		"dev --client nonsense":            "ID:SECRET:ACCOUNT",
		"demo --events 0":                  "1 to 10000000",
		"sample --brokers a:1 --retries 2": "at most 0.9",
	} {
		args := strings.Fields(line)
		if args[0] == "dev" {
			args = append(args, "--data-dir", t.TempDir(), "--kafka-listen", "localhost:0", "--http-listen", "localhost:0", "--admin-listen", "localhost:0")
		}
		status, _, errs := command(ctx, nil, args...)
		if !strings.Contains(errs, want) || !strings.HasPrefix(errs, "lockstitch: ") {
			t.Errorf("%s: %q should say %q", line, errs, want)
		}
		if status != 2 {
			t.Errorf("%s: exit %d, want 2", line, status)
		}
	}
}

func TestCheckConfigNeedsNoBroker(t *testing.T) {
	ctx := context.Background()
	env := []string{"LOCKSTITCH_SIGNING_KEYS=" + testKey, "LOCKSTITCH_BROKERS=localhost:1"}
	if status, out, errs := command(ctx, env, "serve", "--check-config"); status != 0 || !strings.Contains(out, "valid") {
		t.Errorf("exit %d: %s %s", status, out, errs)
	}
	if status, _, errs := command(ctx, env, "serve", "--check-config", "--flush-interval", "0s"); status != 2 || !strings.Contains(errs, "flush_interval") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

func TestVersion(t *testing.T) {
	if status, out, _ := command(context.Background(), nil, "version"); status != 0 || !strings.HasPrefix(out, "lockstitch ") {
		t.Errorf("exit %d: %q", status, out)
	}
}
