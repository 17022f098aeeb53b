package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// checkTimeout is longer than /readyz takes to find that the brokers are away.
const checkTimeout = readyTimeout + 2*time.Second

func (a *app) healthcheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a replica on this machine whether it is ready",
		Long: `Asks /readyz at admin_listen, for health checks of containers, whose image has no
shell and no curl. Prints what it says.

Exit status 0: ready. 1: not ready, or nobody answers. 2: wrong usage or configuration.
130: interrupted before it was done.`,
		Example: `  lockstitch healthcheck --admin-listen localhost:9644`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, _, err := a.settings(c, scopeAdmin)
			if err != nil {
				return err
			}
			return a.healthcheck(c.Context(), s.HTTP.AdminListen)
		},
	}
	addFlags(c.Flags(), scopeAdmin)
	return c
}

func (a *app) healthcheck(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return usage(err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return usage(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(said))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", text)
	}
	_, err = fmt.Fprintln(a.out, text)
	return err
}
