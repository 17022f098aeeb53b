package kafka_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

func TestEveryFlippedBitOfARecordIsFound(t *testing.T) {
	for name, value := range map[string][]byte{"a value": []byte(`{"v":2,"next":17}`), "an empty value": {}, "a tombstone": nil} {
		t.Run(name, func(t *testing.T) {
			r := kafka.Stamp(&kgo.Record{Topic: "cat", Partition: 3, Offset: 8, Key: []byte("p/x/1"), Value: value})
			if ok, err := kafka.Verify(r, 2); ok != (len(value) > 0 || value == nil) || ok != (err == nil) {
				t.Fatal(ok, err)
			}
			refused := func(what string) {
				t.Helper()
				ok, err := kafka.Verify(r, 2)
				var damaged *kafka.DamagedError
				if ok || !errors.As(err, &damaged) || damaged.Topic != "cat" || damaged.Partition != 3 || damaged.Offset != 8 {
					t.Errorf("%s: %v", what, err)
				}
			}
			h := &r.Headers[0]
			key := []byte(h.Key)
			for _, part := range [][]byte{r.Key, r.Value, h.Value} {
				for i := range 8 * len(part) {
					part[i/8] ^= 1 << (i % 8)
					refused("a flipped bit")
					part[i/8] ^= 1 << (i % 8)
				}
			}
			for i := range 8 * len(key) {
				key[i/8] ^= 1 << (i % 8)
				h.Key = string(key)
				// What is said of a record without its checksum depends on its version.
				if ok, err := kafka.Verify(r, 2); ok || err == nil {
					t.Error("a flipped bit in the header's name")
				}
				key[i/8] ^= 1 << (i % 8)
			}
			h.Key = string(key)
			if r.Value == nil {
				r.Value = []byte{}
			} else {
				r.Value = nil
			}
			refused("a value where there is none, or none where there is one")
		})
	}
}

func TestAnotherVersionIsNoDamage(t *testing.T) {
	for name, r := range map[string]*kgo.Record{
		"newer":                         kafka.Stamp(&kgo.Record{Value: []byte(`{"v":3,"next":"of another type"}`)}),
		"newer, with another checksum":  {Value: []byte(`{"v":3}`)},
		"older, from before a checksum": {Value: []byte(`{"v":1}`)},
		"none":                          {Value: []byte(`{}`)},
	} {
		r.Topic, r.Partition, r.Offset, r.Key = "cat", 3, 8, []byte("p/x/1")
		if len(r.Headers) > 0 {
			r.Headers = nil
			kafka.Stamp(r)
		}
		ok, err := kafka.Verify(r, 2)
		var version *kafka.VersionError
		if ok || !errors.As(err, &version) || version.Known != 2 || version.Topic != "cat" || version.Partition != 3 || version.Offset != 8 || version.Key != "p/x/1" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCapitalKindsArePassedOver, whatever they hold, if it is what was written.
func TestCapitalKindsArePassedOver(t *testing.T) {
	for name, value := range map[string][]byte{"a value": []byte(`{"v":2}`), "of another version": []byte(`{"v":3}`), "of no version": []byte("x"), "a tombstone": nil} {
		for _, key := range []string{"A/x", "Z/x/1", "P"} {
			r := kafka.Stamp(&kgo.Record{Topic: "cat", Key: []byte(key), Value: value})
			if ok, err := kafka.Verify(r, 2); ok || err != nil {
				t.Errorf("%s under %s: %v, %v", name, key, ok, err)
			}
			bare := *r
			bare.Headers = nil
			if ok, err := kafka.Verify(&bare, 2); ok || err == nil {
				t.Errorf("%s under %s, without a checksum: %v, %v", name, key, ok, err)
			}
			r.Headers[0].Value[2] ^= 1
			var damaged *kafka.DamagedError
			if ok, err := kafka.Verify(r, 2); ok || !errors.As(err, &damaged) {
				t.Errorf("%s under %s, damaged: %v, %v", name, key, ok, err)
			}
		}
	}
	for _, key := range []string{"a/x", "z/x", "@/x", "[/x", "\xc1/x", "", "/A"} {
		if ok, err := kafka.Verify(kafka.Stamp(&kgo.Record{Key: []byte(key), Value: []byte(`{"v":2}`)}), 2); !ok || err != nil {
			t.Errorf("%q: %v, %v", key, ok, err)
		}
	}
}

func TestUnknownKindIsNoDamage(t *testing.T) {
	r := &kgo.Record{Topic: "cat", Partition: 3, Offset: 8, Key: []byte("z/x")}
	var version *kafka.VersionError
	err := kafka.Unreadable(r, fmt.Errorf("reading it: %w", kafka.ErrUnknownKind))
	if !errors.As(err, &version) || err.Error() != `record "z/x" at offset 8 of cat/3 is of a kind that this program does not know; a newer version wrote it` {
		t.Errorf("got %v", err)
	}
}
