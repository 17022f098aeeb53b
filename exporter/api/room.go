package api

import (
	"context"
	"fmt"
	"time"

	"lockstitch/state/report"
)

// littleBytes is what reports and rolling exports of an account may take even where those of
// a few others take all that they can get: some 250 reports, or two files every hour.
const littleBytes = 1 << 20

// room refuses what would take so many bytes more of every replica's memory than reports
// and rolling exports may take, those counted with all files that they will have: those of
// an account ReportsBytes, those of all AllReportsBytes, of which the last eighth is for
// accounts that take no more than littleBytes. What others take is in the log and not in
// the detail. at is a position in each partition of the event topics, what is how the
// detail calls what is refused. counted: the table knows of it already.
func (s *server) room(account string, at []report.End, more int64, what string, counted bool) error {
	have, lim := s.deps.Reports.Sizes(account, s.plan(at)), s.cfg.Limits
	if counted {
		have.Account, have.All = have.Account-more, have.All-more
	}
	all, who := lim.AllReportsBytes, "any account"
	if have.Account+more > littleBytes {
		all, who = all-all/8, "accounts that take more than "+bytesText(littleBytes)
	}
	if have.Account+more > lim.ReportsBytes {
		return limited(kindReports, time.Hour, fmt.Sprintf("%s needs %s more memory; the account's reports and rolling exports take %s of %s (max_reports_size). %s",
			what, bytesText(more), bytesText(have.Account), bytesText(lim.ReportsBytes), whatHelps))
	}
	if have.All+more > all {
		s.log.Warn("there is no room for more reports or rolling exports", "for", who, "account", account, "bytes", more, "taken", have.All, "limit", all)
		return limited(kindReports, time.Hour, fmt.Sprintf("%s needs %s more memory; the account's reports and rolling exports take %s, and there is no room left for %s (by memory_limit). %s",
			what, bytesText(more), bytesText(have.Account), who, whatHelps))
	}
	return nil
}

// whatHelps ends the detail of such a refusal.
const whatHelps = "Fewer exports help, fewer rolling exports or a longer `every`; or, set by the operator, a shorter file_lifetime or more memory_limit and max_reports_size. " +
	"Reports go 2 days after their file has expired or was deleted, files of rolling exports when they expire."

// ends reads how far the input reaches.
func (s *server) ends(c *call) (at []report.End, err error) {
	err = s.within(c, "The ends of the event partitions", func(ctx context.Context) (err error) {
		at, err = s.deps.Ends(ctx)
		return err
	})
	return at, err
}

func (s *server) plan(at []report.End) report.Plan {
	return report.Plan{Lifetime: s.cfg.FileLifetime, Positions: at}
}

func bytesText(bytes int64) string {
	if bytes < 1e6 {
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}
