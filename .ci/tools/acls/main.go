// Command acls gives and takes rights of a Kafka cluster. Each line of its input is
//
//	allow|remove USER topic|group|transaction|cluster literal|prefixed NAME OPERATION,…
//
// with an operation as Kafka names it (Read, DescribeConfigs). It prints nothing and
// exits 0 if all was done.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	brokers := flag.String("brokers", "", "brokers, host:port with commas between")
	flag.Parse()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(*brokers, ",")...))
	if err != nil {
		fail(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := do(ctx, kadm.NewClient(cl), strings.Fields(in.Text())); err != nil {
			fail(fmt.Errorf("%s: %w", in.Text(), err))
		}
	}
	if err := in.Err(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func do(ctx context.Context, adm *kadm.Client, words []string) error {
	if len(words) != 6 {
		return fmt.Errorf("%d words, want 6", len(words))
	}
	verb, user, resource, pattern, name := words[0], words[1], words[2], words[3], words[4]
	b := kadm.NewACLs().Allow("User:" + user)
	if verb == "allow" {
		b = b.AllowHosts("*")
	} else {
		b = b.AllowHosts()
	}
	switch resource {
	case "topic":
		b = b.Topics(name)
	case "group":
		b = b.Groups(name)
	case "transaction":
		b = b.TransactionalIDs(name)
	case "cluster":
		b = b.Clusters()
	default:
		return fmt.Errorf("there is no resource %q", resource)
	}
	p, err := kmsg.ParseACLResourcePatternType(pattern)
	if err != nil {
		return err
	}
	var ops []kadm.ACLOperation
	for o := range strings.SplitSeq(words[5], ",") {
		op, err := kmsg.ParseACLOperation(o)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	b = b.ResourcePatternType(p).Operations(ops...)
	switch verb {
	case "allow":
		made, err := adm.CreateACLs(ctx, b)
		for _, m := range made {
			if err == nil {
				err = m.Err
			}
		}
		return err
	case "remove":
		gone, err := adm.DeleteACLs(ctx, b)
		n := 0
		for _, g := range gone {
			if err == nil {
				err = g.Err
			}
			n += len(g.Deleted)
		}
		if err == nil && n != len(ops) {
			err = fmt.Errorf("%d rights were removed, want %d", n, len(ops))
		}
		return err
	}
	return fmt.Errorf("there is no verb %q", verb)
}
