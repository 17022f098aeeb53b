package auth

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T, keys []Key, now func() time.Time) *Authority {
	t.Helper()
	a, err := New(Config{Keys: keys, Clients: []Client{{ID: "c", SecretHash: HashSecret("s"), Account: "acme"}}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A key is rotated by putting a new one in front and, once its tokens have
// ended, taking the old one away.
func TestRotation(t *testing.T) {
	old, fresh := Key{"old", []byte(strings.Repeat("o", 32))}, Key{"new", []byte(strings.Repeat("n", 32))}
	before, during, after := authority(t, []Key{old}, nil), authority(t, []Key{fresh, old}, nil), authority(t, []Key{fresh}, nil)
	who, err := before.Authenticate("c", "s")
	if err != nil {
		t.Fatal(err)
	}
	first, err := before.Issue(who)
	if err != nil {
		t.Fatal(err)
	}
	second, err := during.Issue(who)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		by    *Authority
		token string
		ok    bool
	}{{during, first, true}, {during, second, true}, {after, second, true}, {after, first, false}, {before, second, false}} {
		got, err := c.by.Verify(t.Context(), c.token)
		if c.ok && (err != nil || got != who) || !c.ok && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v %v, want %v", got, err, c.ok)
		}
	}
}

func TestLifetimes(t *testing.T) {
	now := time.Now()
	a := authority(t, []Key{{"k", []byte(strings.Repeat("k", 32))}}, func() time.Time { return now })
	token, err := a.Issue(Identity{"acme", "c"})
	if err != nil {
		t.Fatal(err)
	}
	download, err := a.IssueDownload("acme", "report", now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context(), download); !errors.Is(err, ErrInvalid) {
		t.Error("a download credential was taken for a token")
	}
	if _, err := a.VerifyDownload(token); !errors.Is(err, ErrInvalid) {
		t.Error("a token was taken for a download credential")
	}
	now = now.Add(59 * time.Second)
	if who, err := a.VerifyDownload(download); err != nil || who != (Identity{"acme", "report"}) {
		t.Errorf("%v %v", who, err)
	}
	now = now.Add(2 * time.Second)
	if _, err := a.VerifyDownload(download); !errors.Is(err, ErrInvalid) {
		t.Error("the download credential outlives its time")
	}
	now = now.Add(TokenLifetime - 2*time.Minute)
	if _, err := a.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
	now = now.Add(2 * time.Minute)
	if _, err := a.Verify(t.Context(), token); !errors.Is(err, ErrInvalid) {
		t.Error("the token outlives its time")
	}
}

func TestAuthenticate(t *testing.T) {
	a := authority(t, []Key{{"k", []byte(strings.Repeat("k", 32))}}, nil)
	for _, c := range [][2]string{{"c", "S"}, {"c", ""}, {"x", "s"}, {"", ""}, {"c", HashSecret("s")}} {
		if who, err := a.Authenticate(c[0], c[1]); !errors.Is(err, ErrInvalid) || who != (Identity{}) {
			t.Errorf("%v: %v %v", c, who, err)
		}
	}
}

// Whatever is sent as a token is refused or was issued here.
func FuzzVerify(f *testing.F) {
	// By a clock that stands still: another process that fuzzes issues the same.
	a, err := New(Config{Keys: []Key{{"k", []byte(strings.Repeat("k", 32))}}, Clients: []Client{{ID: "c", SecretHash: HashSecret("s"), Account: "acme"}},
		Now: func() time.Time { return time.Unix(1_900_000_000, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	good, err := a.Issue(Identity{"acme", "c"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good + "x")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := a.Verify(t.Context(), token); err == nil && token != good {
			t.Fatalf("%q was accepted", token)
		}
		if _, err := a.VerifyDownload(token); err == nil {
			t.Fatalf("%q was accepted for a download", token)
		}
	})
}
