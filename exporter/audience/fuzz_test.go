package audience

import (
	"regexp"
	"strings"
	"testing"
)

// FuzzParse compares with a reference that evaluates by rewriting text: names
// become 0 or 1 and the rules are applied until nothing changes.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a", "!a&b|c", "!(europe) & women", "((a|b)&!(c))", "a|b&", "!!!a", "å:1 | b", ")(", "a b"} {
		f.Add(s, uint64(5))
	}
	f.Fuzz(func(t *testing.T, expr string, members uint64) {
		e, err := Parse(expr)
		if err != nil {
			if e != nil {
				t.Fatal("both an expression and an error")
			}
			return
		}
		if len(e.Names()) == 0 {
			t.Fatalf("%q names nothing", expr)
		}
		if len(expr) > 300 {
			return // the reference is slow
		}
		index := make(map[string]int)
		for i, n := range e.Names() {
			index[n] = i
		}
		member := func(profile, i int) bool { return members>>((i+7*profile)%64)&1 != 0 }
		got := e.Eval(func(i int) (word uint64) {
			for profile := range 64 {
				if member(profile, i) {
					word |= 1 << profile
				}
			}
			return word
		})
		for _, profile := range []int{0, 1, 63} {
			if got, want := got>>profile&1 != 0, rewrite(t, expr, func(n string) bool { return member(profile, index[n]) }); got != want {
				t.Errorf("%q for profile %d of %b: %v, the reference says %v", expr, profile, members, got, want)
			}
		}
	})
}

var (
	spaces = regexp.MustCompile(`[ \t\r\n]+`)
	word   = regexp.MustCompile(`[^!&|() \t\r\n]+`)
	ands   = regexp.MustCompile(`[01]&[01]`)
	ors    = regexp.MustCompile(`[01]\|[01]`)
)

func rewrite(t *testing.T, expr string, member func(string) bool) bool {
	s := word.ReplaceAllStringFunc(expr, func(n string) string {
		if member(n) {
			return "1"
		}
		return "0"
	})
	s = spaces.ReplaceAllString(s, "")
	for range 2000 {
		before := s
		s = strings.NewReplacer("(0)", "0", "(1)", "1", "!0", "1", "!1", "0").Replace(s)
		if s != before {
			continue
		}
		// No "!" stands before a value now: "&" may be applied everywhere, and
		// "|" where no "&" is left beside it.
		if loc := ands.FindStringIndex(s); loc != nil {
			v := "0"
			if s[loc[0]:loc[1]] == "1&1" {
				v = "1"
			}
			s = s[:loc[0]] + v + s[loc[1]:]
			continue
		}
		applied := false
		for _, loc := range ors.FindAllStringIndex(s, -1) {
			if (loc[0] > 0 && strings.ContainsRune("&!", rune(s[loc[0]-1]))) || (loc[1] < len(s) && s[loc[1]] == '&') {
				continue
			}
			v := "1"
			if s[loc[0]:loc[1]] == "0|0" {
				v = "0"
			}
			s = s[:loc[0]] + v + s[loc[1]:]
			applied = true
			break
		}
		if !applied {
			break
		}
	}
	if s != "0" && s != "1" {
		t.Fatalf("%q was accepted, the reference is left with %q", expr, s)
	}
	return s == "1"
}
