package audience

import (
	"fmt"
	"unicode/utf8"
)

// Parse reads an expression. The error, if any, is an *Error.
func Parse(expr string) (*Expr, error) {
	if len(expr) > MaxLength {
		return nil, &Error{Position: MaxLength + 1, Detail: fmt.Sprintf("the expression has %d bytes, at most %d are allowed", len(expr), MaxLength)}
	}
	if !utf8.ValidString(expr) {
		return nil, &Error{Position: 1, Detail: "the expression is not valid UTF-8"}
	}
	p := parser{text: expr, index: make(map[string]int)}
	root, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if p.skipSpace(); p.at < len(p.text) {
		if p.text[p.at] == ')' {
			return nil, p.errorf(p.at, `")" without a "(" before it`)
		}
		return nil, p.errorf(p.at, `"&", "|" or the end is expected, not %s`, p.found())
	}
	return &Expr{names: p.names, root: root}, nil
}

type parser struct {
	text  string
	at    int // byte offset of what is read next
	names []string
	index map[string]int
}

func (p *parser) errorf(at int, format string, args ...any) error {
	return &Error{Position: utf8.RuneCountInString(p.text[:at]) + 1, Detail: fmt.Sprintf(format, args...)}
}

// found describes what stands at p.at, for error messages.
func (p *parser) found() string {
	if p.at == len(p.text) {
		return "the end"
	}
	r, _ := utf8.DecodeRuneInString(p.text[p.at:])
	return fmt.Sprintf("%q", string(r))
}

func (p *parser) skipSpace() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) expression(depth int) (node, error) {
	return p.chain(or, '|', depth, func(depth int) (node, error) {
		return p.chain(and, '&', depth, p.factor)
	})
}

// chain reads operands separated by sign.
func (p *parser) chain(op operator, sign byte, depth int, operand func(int) (node, error)) (node, error) {
	first, err := operand(depth)
	if err != nil {
		return node{}, err
	}
	args := []node{first}
	for {
		p.skipSpace()
		if p.at == len(p.text) || p.text[p.at] != sign {
			break
		}
		p.at++
		next, err := operand(depth)
		if err != nil {
			return node{}, err
		}
		args = append(args, next)
	}
	if len(args) == 1 {
		return first, nil
	}
	return node{op: op, args: args}, nil
}

func (p *parser) factor(depth int) (node, error) {
	p.skipSpace()
	start := p.at
	if depth > MaxNesting {
		return node{}, p.errorf(start, "nested deeper than %d", MaxNesting)
	}
	if p.at < len(p.text) {
		switch p.text[p.at] {
		case '!':
			p.at++
			arg, err := p.factor(depth + 1)
			if err != nil {
				return node{}, err
			}
			return node{op: not, args: []node{arg}}, nil
		case '(':
			p.at++
			inner, err := p.expression(depth + 1)
			if err != nil {
				return node{}, err
			}
			if p.skipSpace(); p.at == len(p.text) {
				return node{}, p.errorf(start, `"(" is never closed`)
			}
			if p.text[p.at] != ')' {
				return node{}, p.errorf(p.at, `"&", "|" or ")" is expected, not %s`, p.found())
			}
			p.at++
			return inner, nil
		}
	}
	for p.at < len(p.text) {
		r, size := utf8.DecodeRuneInString(p.text[p.at:])
		if !isNameRune(r) {
			break
		}
		p.at += size
	}
	if p.at == start {
		return node{}, p.errorf(start, `a name, "!" or "(" is expected, not %s`, p.found())
	}
	text := p.text[start:p.at]
	i, known := p.index[text]
	if !known {
		i = len(p.names)
		p.names = append(p.names, text)
		p.index[text] = i
	}
	return node{op: name, name: i}, nil
}
