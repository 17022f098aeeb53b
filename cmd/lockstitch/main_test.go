package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

// commandEnv makes the test binary the command itself, for what needs a process.
const commandEnv = "LOCKSTITCH_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(commandEnv) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

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
		if c.Hidden || name == "help" || strings.HasPrefix(name, "completion") {
			return
		}
		status, out, errs := command(ctx, nil, append(strings.Fields(name), "--help")...)
		if status != 0 || errs != "" {
			t.Errorf("%s --help: exit %d, %s", name, status, errs)
		}
		if !strings.Contains(out, "Usage:") || c.Short == "" {
			t.Errorf("%s --help says too little:\n%s", name, out)
		}
		if strings.Count(out, "Exit status") != 1 {
			t.Errorf("%s --help does not say its exit statuses, or says them twice:\n%s", name, out)
		}
		_, statuses, _ := strings.Cut(strings.Join(strings.Fields(out), " "), "Exit status")
		for _, s := range []string{" 0: ", " 1: ", " 2: ", " 130: "} {
			if !strings.Contains(statuses, s) {
				t.Errorf("%s --help does not say what exit status%s means", name, strings.TrimSuffix(s, ": "))
			}
		}
		if name == "version" || c.HasSubCommands() {
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
		"segments dump":                     "arg",
		"dev --partitions 0":                "1 to 1000",
		"dev --client nonsense":             "ID:SECRET:ACCOUNT",
		"dev --client a:b:c --client a:d:e": `--client, entry 2 (id "a"): the id is used twice`,
		"dev --client a:sha256:zz:c":        "64 hexadecimal digits",
		"dev --kafka-listen nonsense":       "--kafka-listen",
		"dev --kafka-listen :9092":          "name the host",
		"help nosuch":                       "unknown command",
		"help topics nosuch":                "lockstitch topics --help",
		"completion nosuch":                 "unknown command",
		"demo --events 0":                   "1 to 10000000",
		"sample --brokers a:1 --retries 2":  "at most 0.9",
	} {
		args := strings.Fields(line)
		if args[0] == "dev" {
			args = append(args[:1:1], append([]string{"--kafka-listen", "localhost:0"}, args[1:]...)...)
			args = append(args, "--data-dir", t.TempDir(), "--http-listen", "localhost:0", "--admin-listen", "localhost:0")
		}
		status, _, errs := command(ctx, nil, args...)
		if !strings.Contains(errs, want) || !strings.HasPrefix(errs, "lockstitch: ") {
			t.Errorf("%s: %q should say %q", line, errs, want)
		}
		if status != 2 {
			t.Errorf("%s: exit %d, want 2", line, status)
		}
		if strings.Count(errs, "(see `") > 1 {
			t.Errorf("%s: says twice where to look: %s", line, errs)
		}
	}
}

// Whoever gives a wrong address is told so, by every command that talks to
// brokers, instead of waiting.
func TestNoBrokerIsExit1AndSaysWhatToCheck(t *testing.T) {
	store := "file://" + t.TempDir()
	for _, line := range []string{"topics create", "topics check", "topics adopt", "sample --events 1", "segments ls --store-url " + store,
		"serve --start-timeout 1s --http-listen localhost:0 --admin-listen localhost:0 --signing-keys " + testKey + " --store-url " + store + " --data-dir " + t.TempDir()} {
		status, _, errs := command(context.Background(), nil, append(strings.Fields(line), "--brokers", "localhost:1")...)
		if status != 1 || !strings.Contains(errs, "refused") || !strings.Contains(errs, "check --brokers") {
			t.Errorf("%s: exit %d: %s", line, status, errs)
		}
	}
}

// A data directory that cannot be used is told before a broker is looked for.
func TestADataDirectoryThatCannotBeUsedShowsAtOnce(t *testing.T) {
	file, dir := writeFile(t, "f", ""), t.TempDir()
	lock, err := vfs.Default.Lock(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for path, want := range map[string]string{
		filepath.Join(file, "data"): "the data directory cannot be made: ",
		dir:                         "the data directory " + dir + " is in use by another process",
	} {
		status, _, errs := command(t.Context(), nil, "serve", "--brokers", "localhost:1", "--start-timeout", "1s", "--http-listen", "localhost:0", "--admin-listen", "localhost:0",
			"--signing-keys", testKey, "--store-url", "file://"+t.TempDir(), "--data-dir", path)
		if status != 1 || !strings.Contains(errs, want) || strings.Contains(errs, "no broker") {
			t.Errorf("%s: exit %d: %s", path, status, errs)
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
	// Three months of window and a week of deduplication are the least.
	if status, _, errs := command(ctx, env, "serve", "--check-config", "--retention", "2399h"); status != 2 || !strings.Contains(errs, "retention is 2399h0m0s; it must be at least 2400h0m0s") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if status, out, errs := command(ctx, env, "serve", "--check-config", "--retention", "2400h"); status != 0 || !strings.Contains(out, "valid") {
		t.Errorf("exit %d: %s %s", status, out, errs)
	}
	// What the API refuses when it is made is refused here.
	if status, _, errs := command(ctx, env, "serve", "--check-config", "--issuer", "lockstitch", "--issuer-audience", "a", "--issuer-jwks-url", "https://issuer.example/jwks"); status != 2 || !strings.Contains(errs, "issuer") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if status, _, errs := command(ctx, env, "serve", "--check-config", "--window-months", "13"); status != 2 || !strings.Contains(errs, "window_months (13, of 31 days)") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

func TestVersion(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		if status, out, _ := command(context.Background(), nil, arg); status != 0 || !strings.HasPrefix(out, "lockstitch "+versionText()) {
			t.Errorf("%s: exit %d: %q", arg, status, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	if status, out, _ := command(context.Background(), nil, "completion", "bash"); status != 0 || !strings.Contains(out, "__start_lockstitch") {
		t.Errorf("exit %d: %.200q", status, out)
	}
}

// The variables of export are no mistake of a server's environment, and other
// unknown ones are named.
func TestUnknownVariablesAreNamed(t *testing.T) {
	env := []string{"LOCKSTITCH_URL=http://x", "LOCKSTITCH_CLIENT_SECRET=hush", "LOCKSTITCH_FLUSH_INTERVALL=1s", "LOCKSTITCH_BROKERS=localhost:1"}
	status, _, errs := command(context.Background(), env, "topics", "check")
	if status != 1 || !strings.Contains(errs, "LOCKSTITCH_FLUSH_INTERVALL") || strings.Contains(errs, "LOCKSTITCH_URL") || strings.Contains(errs, "hush") {
		t.Errorf("exit %d: %s", status, errs)
	}
}
