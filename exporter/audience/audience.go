// Package audience parses and evaluates the expressions of a segment_filter
// (contract section 3): which of a request's audiences a row's profile must, or
// must not, have belonged to at the moment of the event.
//
//	expression = term { "|" term }
//	term       = factor { "&" factor }
//	factor     = "!" factor | "(" expression ")" | name
//
// A name is one or more letters, digits (of any script), "_", "-", "." or ":".
// Space, tab, CR and LF may stand between the parts. There are no constants: an
// expression names at least one audience.
//
// Expressions come from outside, so length and nesting are bounded; an
// expression that was parsed is immutable and may be used concurrently.
package audience

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Bounds on what Parse accepts.
const (
	MaxLength  = 10_000 // bytes of an expression
	MaxNesting = 64     // "(" and "!" around a name
)

// Error says where an expression is wrong.
type Error struct {
	Position int // 1 for the first character
	Detail   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("filter, at character %d: %s", e.Position, e.Detail)
}

// Expr is a parsed expression.
type Expr struct {
	names []string
	root  node
}

// Names lists the names that occur, each once, in order of first occurrence.
// The caller must not change it.
func (e *Expr) Names() []string { return e.names }

// Eval evaluates the expression for 64 profiles, a bit for each: an expression has
// thousands of operands if somebody likes. members tells which of them belong to the
// audience called Names()[i]; it may be called any number of times for an i, or never.
func (e *Expr) Eval(members func(i int) uint64) uint64 { return e.root.eval(members) }

type operator uint8

const (
	name operator = iota
	not
	and
	or
)

// node is an operator over its operands; chains of one operator are one node,
// so that the depth of the tree is bounded by MaxNesting and not by the length.
type node struct {
	op   operator
	name int // of op name: index into Expr.names
	args []node
}

func (n *node) eval(members func(int) uint64) uint64 {
	switch n.op {
	case name:
		return members(n.name)
	case not:
		return ^n.args[0].eval(members)
	case and:
		all := ^uint64(0)
		for i := range n.args {
			if all &= n.args[i].eval(members); all == 0 {
				break
			}
		}
		return all
	default:
		some := uint64(0)
		for i := range n.args {
			if some |= n.args[i].eval(members); some == ^uint64(0) {
				break
			}
		}
		return some
	}
}

// isNameRune tells whether r may stand in a name.
func isNameRune(r rune) bool {
	switch r {
	case '_', '-', '.', ':':
		return true
	case utf8.RuneError:
		return false
	}
	return unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number)
}

// ValidName tells whether s can be referred to in an expression.
func ValidName(s string) bool {
	for _, r := range s {
		if !isNameRune(r) {
			return false
		}
	}
	return s != ""
}
