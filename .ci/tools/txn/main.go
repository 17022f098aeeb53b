// Command txn is a transactional producer driven line by line, for the suite of
// ends that no record reaches. It reads JSON objects from standard input and
// answers each with one line:
//
//	{"op":"begin"}                                  ok
//	{"op":"send","topic":T,"key":B64,"value":B64}   ok PARTITION OFFSET (no value: null)
//	{"op":"commit"} {"op":"abort"}                  ok
//	{"op":"empty","topic":T}                        ok (deletes all records of the topic)
//	{"op":"delete","topic":T}                       ok (deletes the topic)
//	{"op":"grow","topic":T,"partitions":N}          ok (the topic has N partitions then)
//	{"op":"forget","group":G}                       ok (deletes the group and its offsets)
//
// What goes wrong is answered with "error: …". At the end of the input it stops
// and leaves an open transaction open.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type command struct {
	Op         string `json:"op"`
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	Group      string `json:"group"`
	Key        []byte `json:"key"`
	Value      []byte `json:"value"`
}

func main() {
	brokers := flag.String("brokers", "", "brokers, host:port with commas between")
	id := flag.String("id", "suite", "transactional id")
	timeout := flag.Duration("timeout", 10*time.Minute, "after which the brokers abort an open transaction")
	flag.Parse()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.TransactionalID(*id),
		kgo.TransactionTimeout(*timeout), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var c command
		answer := ""
		if err := json.Unmarshal(in.Bytes(), &c); err == nil {
			answer, err = do(cl, c)
			if err == nil {
				fmt.Println("ok" + answer)
				continue
			}
			fmt.Println("error:", err)
		} else {
			fmt.Println("error:", err)
		}
	}
}

func do(cl *kgo.Client, c command) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch c.Op {
	case "begin":
		return "", cl.BeginTransaction()
	case "send":
		r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: c.Topic, Key: c.Key, Value: c.Value}).First()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf(" %d %d", r.Partition, r.Offset), nil
	case "commit":
		return "", cl.EndTransaction(ctx, kgo.TryCommit)
	case "abort":
		return "", cl.EndTransaction(ctx, kgo.TryAbort)
	case "empty":
		adm := kadm.NewClient(cl)
		ends, err := adm.ListEndOffsets(ctx, c.Topic)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return "", err
		}
		got, err := adm.DeleteRecords(ctx, ends.Offsets())
		if err != nil {
			return "", err
		}
		return "", got.Error()
	case "delete":
		got, err := kadm.NewClient(cl).DeleteTopics(ctx, c.Topic)
		if err != nil {
			return "", err
		}
		return "", got.Error()
	case "grow":
		got, err := kadm.NewClient(cl).UpdatePartitions(ctx, c.Partitions, c.Topic)
		if err != nil {
			return "", err
		}
		return "", got.Error()
	case "forget":
		_, err := kadm.NewClient(cl).DeleteGroup(ctx, c.Group)
		return "", err
	}
	return "", fmt.Errorf("unknown op %q", c.Op)
}
