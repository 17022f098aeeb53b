package main

import (
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/consumer"
	exportrun "lockstitch/exporter/run"
)

// consumerConfig is what the consumer works by, with half of the memory limit.
func (s *Settings) consumerConfig(opts []kgo.Opt) consumer.Config {
	return consumer.Config{
		Kafka: opts, Topics: s.Topics.TopicNames(), Group: s.Replica.Group, InstanceID: s.Replica.InstanceID,
		DataDir: filepath.Join(s.Replica.DataDir, "local"), MemoryBytes: int64(s.Replica.MemoryLimit) / 2,
		FlushInterval: s.Replica.FlushInterval, DedupHorizon: s.Replica.DedupHorizon, Retention: s.Replica.Retention,
		SessionTimeout: s.Replica.SessionTimeout, TransactionTimeout: s.Replica.TransactionTimeout,
		DefaultAccount: s.Replica.DefaultAccount, Accounts: s.Replica.Accounts, WriterSuffix: s.Replica.writerSuffix, Hook: stepHook,
	}
}

// runnerConfig is what the report runner works by, with a quarter of the memory limit.
func (s *Settings) runnerConfig(opts []kgo.Opt) exportrun.Config {
	return exportrun.Config{
		Kafka: opts, Topic: s.Topics.Reports, Profiles: s.Topics.Profiles, Group: s.Replica.Group + "-reports",
		FileLifetime: s.Limits.FileLifetime, MaxBytes: int64(s.Limits.MaxFileSize), Workers: s.Limits.ExportParallel,
		Parallel: s.Limits.MaxRendering, Memory: int64(s.Replica.MemoryLimit) / 4, SessionTimeout: s.Replica.SessionTimeout,
		Hook: stepHook,
	}
}
