package api

import (
	"errors"
	"runtime"
	"strings"
	"testing"
)

// nestedBody is a token call's body, of full size, of numbers in a list in so many objects.
func nestedBody(objects int) []byte {
	head := strings.Repeat(`{"`+strings.Repeat("n", 128)+`":`, objects) + "[0"
	tail := "]" + strings.Repeat("}", objects)
	return []byte(head + strings.Repeat(",0", (maxTokenBody-len(head)-len(tail))/2) + tail)
}

// What is said of a place in a body is made for errors alone: a body costs what is in it,
// however deep that lies, as anybody may send one.
func TestADeepBodyCostsNoMore(t *testing.T) {
	allocated := func(body []byte) uint64 {
		const runs = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := parseObject(body); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / runs
	}
	flat, deep := allocated(nestedBody(1)), allocated(nestedBody(maxBodyDepth-1))
	t.Logf("of %d bytes: flat %d, deep %d", maxTokenBody, flat, deep)
	if deep > flat*5/4 {
		t.Errorf("a deep body takes %d bytes, a flat one %d", deep, flat)
	}
}

// The place of an error is told through lists and objects, and of what is nested too deep.
func TestPlacesInABody(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":[{},{"b/c":1,"b/c":2}]}`:      "/a/1/b~1c",
		`{"a":{"b":{"c":1}}}`:               "",
		`{"a":[[0],[1,[2]]]}`:               "/a/1/1/0",
		`{"a":{"b":{"c":{"d":1}}}}`:         "/a/b/c/d",
		`{"x":[1,2],"y":{"z":[3],"z":[4]}}`: "/y/z",
		`{"x":{"y":[1,{"z":{}}]},"x":{}}`:   "/x/y/1/z",
		`{"x":{"y":[1,{}]},"x":null}`:       "/x",
	} {
		_, err := parseObject([]byte(body))
		var p *Problem
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", body, err)
		case want != "" && (!errors.As(err, &p) || p.Errors[0].Pointer != want):
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
}
