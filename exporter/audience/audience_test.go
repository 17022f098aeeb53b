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
		for bits := range 8 {
			set := func(e *Expr) func(int) bool {
				return func(i int) bool {
					return bits&(1<<strings.IndexByte("abc", strings.NewReplacer("women", "a", "europe", "b").Replace(e.Names()[i])[0])) != 0
				}
			}
			if got, want := x.Eval(set(x)), y.Eval(set(y)); got != want {
				t.Errorf("%q and %q differ for members %03b: %v, %v", c.expr, c.same, bits, got, want)
			}
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
	if !long.Eval(func(int) bool { return true }) || long.Eval(func(int) bool { return false }) {
		t.Error("a long chain of one name is not that name")
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
