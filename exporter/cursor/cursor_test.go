package cursor

import (
	"encoding/base64"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"lockstitch/exporter/auth"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

func key(id, letter string) auth.Key {
	return auth.Key{ID: id, Secret: []byte(strings.Repeat(letter, 32))}
}

func end(topic byte, partition int32, offset int64) report.End {
	return report.End{TopicID: segment.TopicID{topic}, Partition: partition, Offset: offset}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	c := New([]auth.Key{key("k1", "a")})
	for name, at := range map[string][]report.End{
		"the beginning": nil,
		"one":           {end(1, 0, 1)},
		"far":           {end(1, 0, math.MaxInt64), end(1, 1, 1), end(255, 7, math.MaxInt64)},
		"alike":         {end(1, 0, 1000), end(1, 1, 1000), end(1, 2, 1000)},
		"gaps":          {end(1, 2, 70_000), end(1, 300, 70_001), end(2, 1, 255), end(2, 2, 256)},
	} {
		got, err := c.Decode("acme", c.Encode("acme", at))
		if err != nil || !reflect.DeepEqual(got, at) {
			t.Errorf("%s: %v %v, want %v", name, got, err, at)
		}
	}
}

// A partition at 0, one that is missing and the order make no difference, nor
// does the name of a topic; neither does another Codec of the same keys.
func TestOnePositionHasOneCursor(t *testing.T) {
	want := New([]auth.Key{key("k1", "a")}).Encode("acme", []report.End{end(1, 0, 5), end(1, 1, 9), end(2, 0, 7)})
	named := end(1, 0, 5)
	named.Topic = "events"
	got := New([]auth.Key{key("k1", "a"), key("k2", "b")}).Encode("acme", []report.End{end(2, 1, 0), end(2, 0, 7), end(1, 1, 9), named, end(3, 0, 0), end(1, 2, 0)})
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What clients hold is read for ever: a new version is another one beside it.
func TestAnOldCursorIsStillRead(t *testing.T) {
	const text = "AQJrMQEAAAAAAAAAAAAAAAAAAAADAAMAAAUAAAABEXACAAAAAAAAAAAAAAAAAAAAAoeU69wDAQAC0G4Q4D2OlBWT7n1zH2tH4-5geWwyz_Rkov93BYVPqN0"
	want := []report.End{end(1, 0, 5), end(1, 2, 70_000), end(2, 0, 1_000_000_007), end(2, 1, 1_000_000_009)}
	c := New([]auth.Key{key("k1", "a")})
	if got, err := c.Decode("acme", text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	if got := c.Encode("acme", want); got != text {
		t.Errorf("written as %s", got)
	}
}

func TestACursorOfAnotherVersionIsRefused(t *testing.T) {
	c := New([]auth.Key{key("k1", "a")})
	raw, err := base64.RawURLEncoding.DecodeString(c.Encode("acme", []report.End{end(1, 0, 5)}))
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[byte]error{version: nil, version + 1: ErrInvalid, 0: ErrInvalid} {
		signed := append([]byte{v}, raw[1:len(raw)-32]...)
		text := base64.RawURLEncoding.EncodeToString(append(signed, mac(c.keys["k1"], "acme", signed)...))
		if _, err := c.Decode("acme", text); !errors.Is(err, want) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

func TestRotation(t *testing.T) {
	at := []report.End{end(1, 0, 5)}
	before, during, after := New([]auth.Key{key("old", "o")}), New([]auth.Key{key("new", "n"), key("old", "o")}), New([]auth.Key{key("new", "n")})
	first, second := before.Encode("acme", at), during.Encode("acme", at)
	for _, c := range []struct {
		by   *Codec
		text string
		ok   bool
	}{{during, first, true}, {during, second, true}, {after, second, true}, {after, first, false}, {before, second, false}} {
		if got, err := c.by.Decode("acme", c.text); c.ok && (err != nil || !reflect.DeepEqual(got, at)) || !c.ok && (!errors.Is(err, ErrInvalid) || got != nil) {
			t.Errorf("%v %v, want %v", got, err, c.ok)
		}
	}
	// The same id with another secret, and the configured key used as it is.
	if _, err := New([]auth.Key{key("old", "x")}).Decode("acme", first); !errors.Is(err, ErrInvalid) {
		t.Errorf("another secret: %v", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	signed := raw[:len(raw)-32]
	if _, err := before.Decode("acme", base64.RawURLEncoding.EncodeToString(append(signed[:len(signed):len(signed)], mac(key("old", "o").Secret, "acme", signed)...))); !errors.Is(err, ErrInvalid) {
		t.Error("the signing key itself authenticates cursors")
	}
}

func TestEveryChangeIsRefused(t *testing.T) {
	c := New([]auth.Key{key("k1", "a")})
	text := c.Encode("acme", []report.End{end(1, 0, 5), end(2, 9, 1<<40)})
	refused := func(what, account, text string) {
		t.Helper()
		if got, err := c.Decode(account, text); !errors.Is(err, ErrInvalid) || got != nil {
			t.Errorf("%s: %v %v", what, got, err)
		}
	}
	for i := range len(text) {
		for _, b := range []byte("AZaz09-_=\n \x00\xff") {
			if text[i] != b {
				refused("another character", "acme", text[:i]+string([]byte{b})+text[i+1:])
			}
			refused("one more character", "acme", text[:i]+string([]byte{b})+text[i:])
		}
		refused("cut short", "acme", text[:i])
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			refused("a bit", "acme", base64.RawURLEncoding.EncodeToString(raw))
			raw[i] ^= 1 << bit
		}
	}
	for _, account := range []string{"", "acm", "acmee", "ACME", "other"} {
		refused("another account", account, text)
	}
	refused("line ends", "acme", text+"\n")
	refused("padding", "acme", text+"=")
}

func TestSize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var at []report.End
	for topic := range byte(3) {
		for p := range int32(100) {
			at = append(at, end(topic, p, 1_000_000_000+r.Int64N(200_000_000)))
		}
	}
	if n := len(New([]auth.Key{key("2026-05", "a")}).Encode("acme", at)); n > 1800 {
		t.Errorf("3 topics of 100 partitions make a cursor of %d characters", n)
	}
}

// Whatever is sent as a cursor is refused or was made here; and what stands
// below a right code, which only who has the key can make, does no harm.
func FuzzDecode(f *testing.F) {
	c := New([]auth.Key{key("k1", "a")})
	for _, at := range [][]report.End{nil, {end(1, 0, 5)}, {end(1, 3, 1<<20), end(2, 0, math.MaxInt64)}} {
		text := c.Encode("acme", at)
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, raw[4:len(raw)-32])
	}
	f.Add("", []byte("0123456789abcdef\xff\xff\xff\xff\x0f\x00\x08"))
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		if at, err := c.Decode("acme", text); err == nil && c.Encode("acme", at) != text {
			t.Fatalf("%q was accepted as %v", text, at)
		}
		raw := append([]byte{version, 2, 'k', '1'}, payload...)
		raw = append(raw, mac(c.keys["k1"], "acme", raw)...)
		at, err := c.Decode("acme", base64.RawURLEncoding.EncodeToString(raw))
		if err != nil {
			return
		}
		again, err := c.Decode("acme", c.Encode("acme", at))
		if err != nil || !reflect.DeepEqual(again, at) {
			t.Fatalf("%v was read as %v, %v", at, again, err)
		}
	})
}
