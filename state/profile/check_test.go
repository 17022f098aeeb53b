package profile

import (
	"testing"
)

var checked = []struct{ name, value string }{
	{"plain", `{"account_id":"acme","sections":{"s":{"attributes":{"1":"x","2":2.5,"3":true},"tags":["4","5"]},"t":{"tags":[1]}},"segments":["w","x"]}`},
	{"bare", `{"account_id":"acme"}`},
}

// Every cut and every changed byte is either refused or harmless.
func TestCheckDamage(t *testing.T) {
	for _, c := range checked {
		snap, _, err := Decode(nil, []byte(c.value))
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(snap) {
			if err := Check(snap[:n:n]); err == nil {
				t.Errorf("%s: cut to %d of %d bytes was accepted", c.name, n, len(snap))
			}
		}
		if Check(append(snap[:len(snap):len(snap)], 0)) == nil {
			t.Errorf("%s: a byte too many was accepted", c.name)
		}
		for i := range snap {
			for x := range 256 {
				damaged := append([]byte{}, snap...)
				damaged[i] = byte(x)
				if Check(damaged) == nil {
					show(damaged)
				}
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"empty":                        "",
		"another version":              "\x02\x01a\x00\x00",
		"long form of a length":        "\x01\x81\x00a\x00\x00",
		"huge count":                   "\x01\x01a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
		"length beyond 64 bits":        "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"empty section":                "\x01\x01a\x01\x01s\x02\x00\x00\x00",
		"sections out of order":        "\x01\x01a\x02\x01t\x04\x00\x01\x011\x01s\x04\x00\x01\x011\x00",
		"section twice":                "\x01\x01a\x02\x01s\x04\x00\x01\x011\x01s\x04\x00\x01\x011\x00",
		"tags out of order":            "\x01\x01a\x01\x01s\x06\x00\x02\x012\x011\x00",
		"tag with a leading zero":      "\x01\x01a\x01\x01s\x05\x00\x01\x0201\x00",
		"attribute id without digits":  "\x01\x01a\x01\x01s\x05\x01\x01x\x02\x00\x00",
		"attribute of an unknown kind": "\x01\x01a\x01\x01s\x05\x01\x011\x04\x00\x00",
		"segment twice":                "\x01\x01a\x00\x02\x01x\x01x",
	} {
		if err := Check([]byte(b)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, b := range map[string]string{
		"bare":      "\x01\x01a\x00\x00",
		"tags":      "\x01\x01a\x01\x01s\x06\x00\x02\x011\x012\x00",
		"attribute": "\x01\x01a\x01\x01s\x05\x01\x011\x03\x00\x00",
	} {
		if err := Check([]byte(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Check(nil); err != nil {
		t.Errorf("nil: %v", err)
	}
}
