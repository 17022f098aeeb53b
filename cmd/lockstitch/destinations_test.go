package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstitch/exporter/rolling"
)

func TestDestinationsFromEverywhere(t *testing.T) {
	file := writeFile(t, "lockstitch.yaml", `
destinations:
  - {name: lake, url: "s3://lake?region=eu-north-1", accounts: [acme, other]}
  - {name: one, url: "file:///mnt/one", accounts: acme}
`)
	for _, args := range [][]string{
		{"--config=" + file},
		{"--destinations=lake:acme|other:s3://lake?region=eu-north-1,one:acme:file:///mnt/one"},
	} {
		s, _, err := loadSettings(flagsOf(t, append(least, args...)...), nil, serveScope)
		if err != nil {
			t.Fatal(err)
		}
		want := "[{lake s3://lake?region=eu-north-1 [acme other]} {one file:///mnt/one [acme]}]"
		if got := fmt.Sprint(s.Replica.Destinations); got != want {
			t.Errorf("%v: %s, want %s", args, got, want)
		}
	}
	for text, want := range map[string]string{
		"lake":                            "NAME:ACCOUNT|ACCOUNT:URL",
		"Lake:acme:s3://b":                "lower-case",
		"lake:acme:s3://b,lake:a:s3://c":  "used twice",
		"lake::s3://b":                    "none of them empty",
		"lake:acme|:s3://b":               "none of them empty",
		"lake:acme:":                      "url must be",
		"lake:acme:ftp://user:geheim@b/x": "url must be",
	} {
		_, _, err := loadSettings(flagsOf(t, append(least, "--destinations="+text)...), nil, serveScope)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", text, err)
		}
	}
	bad := writeFile(t, "bad.yaml", "destinations: [{name: lake, url: 's3://b', accounts: [acme], key: x}]\n")
	if _, _, err := loadSettings(flagsOf(t, append(least, "--config="+bad)...), nil, serveScope); err == nil || !strings.Contains(err.Error(), `there is no "key"`) {
		t.Errorf("%v", err)
	}
}

// A file goes to the destination that the settings name, for the accounts that
// they name, and for no others.
func TestDeliveryToAConfiguredDestination(t *testing.T) {
	lake := t.TempDir()
	y := startSystem(t, t.TempDir(), func(s *Settings) {
		s.Replica.Destinations = []Destination{{Name: "lake", URL: "file://" + lake, Accounts: []string{"acme"}}}
	})
	if err := y.r.store.Put(t.Context(), "exports/f", []byte("file")); err != nil {
		t.Fatal(err)
	}
	f := rolling.File{Account: "acme", Name: "x", Order: "01JX", Number: 3, Object: "exports/f", Bytes: 4,
		SHA256: "3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80", PeriodEnd: time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)}
	if err := y.r.deliver(t.Context(), "lake", f); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x-3.csv.gz", "x-3.csv.gz.json", "x-3.json"} {
		_, err := os.Stat(filepath.Join(lake, "acme", "x", "01JX", "2026", "05", "01", name))
		if (err == nil) != (name != "x-3.csv.gz.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range [][2]string{{"lake", "other"}, {"pond", "acme"}} {
		f.Account = c[1]
		if err := y.r.deliver(t.Context(), c[0], f); err == nil {
			t.Errorf("account %s may write to %s", c[1], c[0])
		}
	}
}
