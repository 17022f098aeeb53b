// Command lockstitch keeps e-mail events ready to export: it reads them from
// Kafka and answers export requests over HTTP. One binary holds the server, a
// development system with its own broker, the command-line client and the
// inspection tools.
//
// # Wiring
//
// serve, dev and demo build the same replica (replica.go):
//
//	settings (options.go, load.go)
//	   │
//	   ├─ state/kafka.Config ─► connection options ─┐
//	   ├─ state/objects.Store                       │
//	   │                                            ▼
//	   │   views, each a tail of one topic:  catalog   reports   definitions
//	   │                                        │         │          │
//	   ├─ consumer ◄────────────────────────────┤◄────────┤          │
//	   ├─ exporter/run  (works on reports) ◄────┤◄────────┤          │
//	   ├─ exporter/rolling (rolling exports) ◄──┤◄────────┤◄─────────┤
//	   └─ exporter/api  (answers calls)    ◄────┴─────────┴──────────┘
//
//	run group:  signal │ API listener │ consumer │ report runner │ rolling exports
//	outside:    admin listener (still answers while the group shuts down)
//
// dev and demo put an embedded broker (broker.go) and sample traffic
// (traffic.go) beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// app is what the commands share: where they write and what they read. Tests
// put their own in.
type app struct {
	out     io.Writer
	err     io.Writer
	environ []string

	ask  time.Duration     // see askTimeout, which 0 means
	hook func(step string) // called as an export moves its cursor, see cursorSink; nil: nothing is
}

func main() {
	// The first signal asks for a graceful stop, a second one kills as usual.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, &app{out: os.Stdout, err: os.Stderr, environ: os.Environ()}, os.Args[1:]))
}

// statusInterrupted is what a shell gives a command that a signal ended.
const statusInterrupted = 130

// run executes one command line and returns the exit status: 0 done, 1 failed,
// 2 wrong usage or configuration, 130 interrupted before it was done.
func run(ctx context.Context, a *app, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := interrupted(ctx, root.ExecuteContext(ctx))
	if err == nil {
		return 0
	}
	say(a.err, "lockstitch: %v\n", err)
	var usage *usageError
	switch {
	case errors.Is(err, errInterrupted):
		return statusInterrupted
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

var errInterrupted = errors.New("interrupted")

// interrupted says so in place of an error that comes from nothing but the end
// of ctx.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) && !errors.Is(err, errInterrupted) {
		return errInterrupted
	}
	return err
}

// usageError is a mistake in the command line or the configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lockstitch",
		Short: "Keeps e-mail events ready to export",
		Long: `Lockstitch is a Kafka stream processor that keeps e-mail events ready to export.

It reads events from Kafka, drops retried copies, decorates each event with the
attributes and tags its profile had at that moment, keeps the result in
immutable segments, and answers an export request with one gzip CSV file.

` + exitStatus("of every command "),
		Example: `  lockstitch demo                      see all of it in a few seconds
  lockstitch dev --sample=true         a whole system on this machine, with traffic
  lockstitch serve --config lockstitch.yaml
  lockstitch export --url http://localhost:8080 --client-id demo --client-secret demo-secret --after beginning -o events.csv.gz
  source <(lockstitch completion bash) completes commands and flags in this shell`,
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          knownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("lockstitch {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath()))
	})
	root.AddCommand(a.demoCommand(), a.devCommand(), a.serveCommand(), a.topicsCommand(),
		a.exportCommand(), a.rollingCommand(), a.segmentsCommand(), a.sampleCommand(), a.healthcheckCommand(), a.versionCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error { return knownTopic(root, args) }
		case "completion":
			c.Args = knownCommand
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		argsAreUsage(c)
		sayStatus(c)
	}
	return root
}

// knownCommand refuses what is no subcommand of c, and proposes one.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage(fmt.Errorf("unknown command %q%s (see `%s --help`)", args[0], hint, c.CommandPath()))
}

// sayStatus adds the exit statuses to the help of c and its children where it
// does not speak of them.
func sayStatus(c *cobra.Command) {
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	switch {
	case strings.Contains(c.Long, "Exit status"):
	case c.HasSubCommands():
		c.Long += "\n\n" + exitStatus("of each ") + " Where it says more, its help has it."
	default:
		c.Long += "\n\n" + exitStatus("")
	}
	for _, child := range c.Commands() {
		sayStatus(child)
	}
}

func exitStatus(whose string) string {
	return "Exit status " + whose + "0: done. 1: failed. 2: wrong usage or configuration.\n130: interrupted before it was done."
}

// knownTopic refuses help for what does not exist.
func knownTopic(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return knownCommand(c, rest)
	}
	return nil
}

// argsAreUsage marks wrong arguments of c and its children as wrong usage.
func argsAreUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			var known *usageError
			if err := check(c, args); errors.As(err, &known) {
				return err
			} else if err != nil {
				return usage(fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath()))
			}
			return nil
		}
	}
	for _, child := range c.Commands() {
		argsAreUsage(child)
	}
}

// settings loads the options in scope for c and makes its logger.
func (a *app) settings(c *cobra.Command, in scope) (*Settings, *slog.Logger, error) {
	s, l, err := loadSettings(c.Flags(), a.environ, in)
	if err != nil {
		return nil, nil, usage(err)
	}
	log := a.logger(s.Log)
	if len(l.unknown) > 0 {
		log.Warn("environment variables that name no setting are ignored", "variables", strings.Join(l.unknown, " "))
	}
	return s, log, nil
}

func (a *app) logger(s LogSettings) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.Level)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if strings.EqualFold(s.Format, "json") {
		return slog.New(leaveOutRepeats(slog.NewJSONHandler(a.err, opts)))
	}
	return slog.New(leaveOutRepeats(slog.NewTextHandler(a.err, opts)))
}
