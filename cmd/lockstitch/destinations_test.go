package main

import (
	"fmt"
	"strings"
	"testing"

	"lockstitch/exporter/rolling"
)

func TestDestinationsFromEverywhere(t *testing.T) {
	s, _, err := loadSettings(flagsOf(t, least...), nil, serveScope)
	if err != nil || len(s.Replica.Destinations) != 0 {
		t.Errorf("by default %v, %v; want none", s.Replica.Destinations, err)
	}
	file := writeFile(t, "c.yaml", `destinations:
- {name: lake, url: "s3://bucket/in?region=eu-north-1&endpoint=http://localhost:7070", accounts: [acme, "a:b|c"]}
- {name: disk, url: "file:///srv/exports", accounts: acme}
`)
	want := "[{lake s3://bucket/in?region=eu-north-1&endpoint=http://localhost:7070 [acme a:b|c]} {disk file:///srv/exports [acme]}]"
	if s, _, err = loadSettings(flagsOf(t, append(least, "--config="+file)...), nil, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a file %v, %v", s, err)
	}
	want = "[{lake s3://bucket?region=x [one two]} {disk file:///srv/exports [three]}]"
	const short = "lake:one|two:s3://bucket?region=x,disk:three:file:///srv/exports"
	if s, _, err = loadSettings(flagsOf(t, append(least, "--destinations="+short)...), nil, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a flag %v, %v", s, err)
	}
	if s, _, err = loadSettings(flagsOf(t, least...), []string{"LOCKSTITCH_DESTINATIONS=" + short}, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a variable %v, %v", s, err)
	}
}

func TestDestinationsRefused(t *testing.T) {
	for yaml, want := range map[string]string{
		`[{url: "s3://hunter2", accounts: [a]}]`:                                                   "name",
		`[{name: Lake!, url: "s3://hunter2", accounts: [a]}]`:                                      "lower-case",
		`[{name: x, url: "s3://hunter2", accounts: [a]}, {name: x, url: "s3://d", accounts: [a]}]`: "twice",
		`[{name: x, url: "s3://hunter2"}]`:                                                         "accounts",
		`[{name: x, url: "s3://hunter2", accounts: []}]`:                                           "accounts",
		`[{name: x, url: "s3://hunter2", accounts: [1]}]`:                                          "accounts must be a list of texts",
		`[{name: x, accounts: [a]}]`:                                                               "url must be",
		`[{name: x, url: "http://u:hunter2@h", accounts: [a]}]`:                                    "url must be",
		`[{name: x, url: "s3://hunter2", account: a}]`:                                             `there is no "account"`,
		`[{name: x, url: "s3://store/?sig=hunter2", accounts: [a]}]`:                               "store itself",
		`[x:a]`:     "NAME:ACCOUNT|ACCOUNT:URL",
		`{name: x}`: "must be a list",
	} {
		file := writeFile(t, "c.yaml", "store_url: s3://store?region=x\ndestinations: "+yaml+"\n")
		_, _, err := loadSettings(flagsOf(t, append(least, "--config="+file)...), nil, serveScope)
		if err == nil || !strings.Contains(err.Error(), "destinations") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", yaml, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

func TestDestinationIsForItsAccounts(t *testing.T) {
	r := &replica{s: &Settings{Replica: ReplicaSettings{Destinations: []Destination{{Name: "lake", URL: "file://" + t.TempDir(), Accounts: []string{"acme"}}}}}}
	if err := r.openDestinations(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for _, c := range []struct {
		account, name string
		want          bool
	}{{"acme", "lake", true}, {"other", "lake", false}, {"acme", "sea", false}, {"", "lake", false}} {
		if got := r.destinations.allows(c.account, c.name); got != c.want {
			t.Errorf("%q may use %q: %v", c.account, c.name, got)
		}
	}
	// Settings may change after an order was made.
	if err := r.deliver(t.Context(), "lake", rolling.File{Account: "other"}); err == nil || !strings.Contains(err.Error(), "lake") {
		t.Errorf("delivered for an account that may not use it: %v", err)
	}
}
