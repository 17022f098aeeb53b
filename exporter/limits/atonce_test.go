package limits

import "testing"

func TestAtOnce(t *testing.T) {
	a := NewAtOnce(2)
	first, ok := a.Begin("a")
	if _, also := a.Begin("a"); !ok || !also {
		t.Fatal("refused within the allowance")
	}
	if _, ok := a.Begin("a"); ok {
		t.Fatal("three at once")
	}
	if _, ok := a.Begin("b"); !ok {
		t.Fatal("one caller takes from another")
	}
	first()
	last, ok := a.Begin("a")
	if _, again := a.Begin("a"); !ok || again {
		t.Fatalf("behind one that has ended: %v, and one more: %v", ok, again)
	}
	last()
	if got := a.calls["a"]; got != 1 {
		t.Fatalf("%d under way", got)
	}
}
