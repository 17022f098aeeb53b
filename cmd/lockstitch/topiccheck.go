package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// topicsEvery is how often a running replica looks at its topics. Where somebody lets the
// catalog expire the first records go after retention.ms, 7 days unless it is set, and the
// replicas that run know them still: until then it can be undone.
const topicsEvery = time.Hour

// topicCheck looks whether the topics are as they must be.
type topicCheck struct {
	asker *kgo.Client
	names kafka.Topics
	log   *slog.Logger
	every time.Duration
	wrong *prometheus.GaugeVec // 1 for each finding of the last look
}

func newTopicCheck(asker *kgo.Client, names kafka.Topics, log *slog.Logger, reg prometheus.Registerer) *topicCheck {
	return &topicCheck{asker, names, log, topicsEvery, promauto.With(reg).NewGaugeVec(prometheus.GaugeOpts{
		Name: "lockstitch_topic_findings",
		Help: "1 for what is not as it should be with a topic; `lockstitch topics check` says what it should be, and what it costs.",
	}, []string{"topic", "setting"})}
}

// Run looks until ctx ends. What no replica would start with is an error in the log only:
// this one works on, and what it knows may be needed to put it right.
func (c *topicCheck) Run(ctx context.Context) error {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		wrong, err := c.look(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("the topics cannot be looked at", "err", err)
		}
		if wrong != nil {
			c.log.Error("no replica would start with the topics as they are", "err", wrong)
		}
	}
}

// look warns of what will cost something. wrong is with what the topics cannot work, err
// why some of it could not be looked at.
func (c *topicCheck) look(ctx context.Context) (wrong, err error) {
	found, err := kafka.Check(ctx, c.asker, c.names)
	if err != nil {
		return nil, err
	}
	lost, err := lostRecords(ctx, c.asker, c.names.Catalog)
	found = append(found, lost...)
	var fatal []error
	c.wrong.Reset()
	for _, topic := range []string{c.names.Catalog, c.names.Reports} { // so that it is told that somebody looks
		unseen := slices.ContainsFunc(found, func(f kafka.Finding) bool {
			return f.Topic == topic && (f.Setting == "permission" || f.Setting == "exists")
		})
		if !unseen {
			c.wrong.WithLabelValues(topic, "cleanup.policy").Set(0)
		}
	}
	for _, f := range found {
		c.wrong.WithLabelValues(f.Topic, f.Setting).Set(1)
		if f.Fatal && (f.Setting == "exists" || f.Topic == c.names.Catalog) || expires(c.names, f) {
			fatal = append(fatal, errors.New(f.String()))
			continue
		}
		c.log.Warn("a topic is not as it should be", "topic", f.Topic, "setting", f.Setting, "have", f.Have, "want", f.Want, "cost", f.Cost)
	}
	return errors.Join(fatal...), err
}

// expires tells of a finding that records of a topic of our own go by their age.
func expires(names kafka.Topics, f kafka.Finding) bool {
	own := f.Topic == names.Catalog || f.Topic == names.Reports
	return own && f.Setting == "cleanup.policy" && strings.Contains(f.Have, "delete")
}

// lostRecords finds a catalog that begins behind its first record. Of one that is missing
// kafka.Check tells.
func lostRecords(ctx context.Context, cl *kgo.Client, catalog string) ([]kafka.Finding, error) {
	ends, err := kafka.Ends(ctx, cl, catalog)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	start := ends[catalog][0].Start
	if start == 0 { // compaction does not move where a log begins
		return nil, nil
	}
	return []kafka.Finding{{Topic: catalog, Setting: "first offset", Have: fmt.Sprint(start), Want: "0", Fatal: true,
		Cost: fmt.Sprintf("records of %s below offset %d are gone: the segments that they named are not known any more and would be removed from the store; "+
			"begin anew with other topics for the catalog and the reports, another group and another store", catalog, start)}}, nil
}
