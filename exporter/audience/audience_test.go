package audience

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestPrecedence(t *testing.T) {
	for _, c := range []struct{ expr, same string }{
		{"a|b&c", "a|(b&c)"},
		{"a&b|c", "(a&b)|c"},
		{"!a&b", "(!a)&b"},
		{"!a|b", "(!a)|b"},
		{"!(a|b)", "!a&!b"},
		{"!!a", "a"},
		{" ! ( a )\t&\r\n b ", "!a&b"},
		{"!(europe) & women", "women&!europe"},
	} {
		x, y := mustParse(t, c.expr), mustParse(t, c.same)
		// Of eight profiles each belongs to other audiences.
		set := func(e *Expr) func(int) uint64 {
			return func(i int) uint64 {
				return [...]uint64{0b10101010, 0b11001100, 0b11110000}[strings.IndexByte("abc", strings.NewReplacer("women", "a", "europe", "b").Replace(e.Names()[i])[0])]
			}
		}
		if got, want := x.Eval(set(x)), y.Eval(set(y)); got != want {
			t.Errorf("%q and %q differ: %08b, %08b", c.expr, c.same, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	e := mustParse(t, "b & a | !b & kvinnor-åäö.x:1_2 & (a)")
	if want := []string{"b", "a", "kvinnor-åäö.x:1_2"}; !slices.Equal(e.Names(), want) {
		t.Errorf("Names() = %q, want %q", e.Names(), want)
	}
	for name, want := range map[string]bool{"": false, "a b": false, "a&b": false, "é": true, "\xff": false, "x-1": true} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		expr string
		at   int
		has  string
	}{
		{"", 1, "the end"},
		{"   ", 4, "the end"},
		{"a b", 3, `not "b"`},
		{"a &", 4, "the end"},
		{"a && b", 4, `not "&"`},
		{"å | ", 5, "the end"},
		{"(a", 1, "never closed"},
		{"x|(a", 3, "never closed"},
		{"a)", 2, `without a "("`},
		{"(a b)", 4, `not "b"`},
		{"()", 2, `not ")"`},
		{"!", 2, "the end"},
		{"a!b", 2, `not "!"`},
		{"a\x00", 2, `not "\x00"`},
		{"\xff", 1, "UTF-8"},
		{"ö & ?", 5, `not "?"`},
		{strings.Repeat("(", MaxNesting+1) + "a" + strings.Repeat(")", MaxNesting+1), MaxNesting + 2, "nested deeper"},
		{strings.Repeat("!", 9000) + "a", MaxNesting + 2, "nested deeper"},
		{strings.Repeat("a", MaxLength+1), MaxLength + 1, "at most"},
	} {
		_, err := Parse(c.expr)
		var e *Error
		if !errors.As(err, &e) || e.Position != c.at || !strings.Contains(e.Error(), c.has) {
			t.Errorf("Parse(%.40q) = %v, want an error at %d with %q", c.expr, err, c.at, c.has)
		}
	}
}

func TestBounds(t *testing.T) {
	mustParse(t, strings.Repeat("(", MaxNesting)+"a"+strings.Repeat(")", MaxNesting))
	mustParse(t, strings.Repeat("!", MaxNesting)+"a")
	long := mustParse(t, strings.Repeat("a&", MaxLength/2-1)+"a")
	const some = uint64(0x0123_4567_89ab_cdef)
	if got := long.Eval(func(int) uint64 { return some }); got != some {
		t.Errorf("a long chain of one name, with the members %x, is %x", some, got)
	}
}

func mustParse(t *testing.T, expr string) *Expr {
	t.Helper()
	e, err := Parse(expr)
	if err != nil {
		t.Fatalf("Parse(%.60q): %v", expr, err)
	}
	return e
}

// The longest chain that is allowed, over as many profiles as a slice may have, by the
// time of a single name.
func BenchmarkEval(b *testing.B) {
	const words = 8192 / 64
	for name, expr := range map[string]string{"one name": "a", "5,000 names": strings.Repeat("a|", MaxLength/2-1) + "a"} {
		e, err := Parse(expr)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for w := range uint64(words) {
					e.Eval(func(int) uint64 { return w })
				}
			}
		})
	}
}
