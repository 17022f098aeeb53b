package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"lockstitch/exporter/api"
)

// shape says which rows a file holds, apart from their time, and with which columns.
type shape struct {
	segment, filter  string
	segments         map[string]string
	attributes, tags []string
	safe             bool
}

func (s *shape) flags(f *pflag.FlagSet) {
	f.StringToStringVar(&s.segments, "segment", nil, "name for --filter, `NAME=DISCRIMINATOR`; may be repeated")
	f.StringVar(&s.segment, "only-segment", "", "discriminator of the only segment to export")
	f.StringVar(&s.filter, "filter", "", "expression over the names of --segment with ! & | ( ), for example '!europe & women'")
	f.StringSliceVar(&s.attributes, "attribute", nil, "attribute column: a version id, or SECTION/DISCRIMINATOR; may be repeated")
	f.StringSliceVar(&s.tags, "tag", nil, "tag column: a version id, or SECTION/DISCRIMINATOR; may be repeated")
	f.BoolVar(&s.safe, "spreadsheet-safe", false, "put ' before cells that a spreadsheet would take for formulas")
}

// segmentFilter is the part of a request that says of whom the rows are; nil: of
// everybody. Errors are of usage.
func (s *shape) segmentFilter() (*api.SegmentFilter, error) {
	switch {
	case s.segment != "" && (s.filter != "" || len(s.segments) > 0):
		return nil, usage(errors.New("--only-segment goes without --segment and --filter"))
	case s.segment != "":
		return &api.SegmentFilter{Discriminator: s.segment}, nil
	case (s.filter == "") != (len(s.segments) == 0):
		return nil, usage(errors.New("--segment and --filter go together"))
	case s.filter != "":
		return &api.SegmentFilter{Discriminators: s.segments, Filter: s.filter}, nil
	}
	return nil, nil
}

// mappings are the columns that the texts of --attribute or --tag name.
func mappings(texts []string) (out []api.Mapping) {
	for _, t := range texts {
		if section, discriminator, ok := strings.Cut(t, "/"); ok {
			out = append(out, api.Mapping{Section: section, Discriminator: discriminator})
		} else {
			out = append(out, api.Mapping{VersionID: t})
		}
	}
	return out
}
