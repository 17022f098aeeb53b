package reference

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

var columns = strings.Split("activity_id,split_id,activity_name,split_activity_name,sender,subject,address,variation,type,correlation_id,"+
	"event_time,server_time,device,location,link_id,link_url,link_title,bounce_code,unsubscribe_topic,abuse_section", ",")

// only names the types of event for which a column is kept.
var only = map[string][]string{
	"device": {"OPENED", "CLICKED"}, "location": {"OPENED", "CLICKED"},
	"link_id": {"CLICKED"}, "link_url": {"CLICKED"}, "link_title": {"CLICKED"},
	"bounce_code": {"BOUNCED"}, "unsubscribe_topic": {"UNSUBSCRIBED"}, "abuse_section": {"ABUSE"},
}

const email = "com.apsis1.attributes.email"

// Question is an export request.
type Question struct {
	Account    string
	Start      int64               // server_time, ms
	End        int64               // excluded; 0: none
	After      map[Partition]int64 // rows below are not in; a partition that is missing counts as 0
	Barrier    map[Partition]int64 // rows at or above are not in; a partition that is missing has none
	Attributes []string            // version ids
	Tags       []string
	Member     string // only rows whose profile was in this audience; empty: all
	NotMember  string // only rows whose profile was not
	// Definitions is how many records of the topic stood when it was asked.
	Definitions int
}

type definition struct {
	Kind, Account, Discriminator, Section, Name, VersionID string
}

// defined is what exists on the account after the first n records.
func (a *Answer) defined(account string, n int) map[string]definition {
	newest := make(map[string][]byte)
	for _, r := range a.definitions[:n] {
		newest[string(r.Key)] = r.Value
	}
	out := make(map[string]definition)
	for _, value := range newest {
		o, err := object(value)
		if err != nil {
			continue
		}
		f := &fields{o: o}
		d := definition{f.text("kind"), f.text("account_id"), f.text("discriminator"), f.text("section"), f.text("name"), f.id("version_id")}
		if d.Account == account && f.err == nil {
			out[d.Kind+"/"+d.VersionID+d.sectionOrSegment()] = d
		}
	}
	return out
}

func (d definition) sectionOrSegment() string {
	if d.VersionID == "" {
		return d.Discriminator
	}
	return ""
}

// Known says whether an export may name an attribute, a tag or a segment of the
// account: what is not defined is refused.
func (a *Answer) Known(account, kind, id string, definitions int) bool {
	_, ok := a.defined(account, definitions)[kind+"/"+id]
	return ok
}

// Export is the text of the file (contract 4), and its number of rows.
func (a *Answer) Export(q Question) (string, int) {
	defs := a.defined(q.Account, q.Definitions)
	head := slices.Clone(columns)
	var extra []definition
	for _, id := range q.Attributes {
		extra = append(extra, defs["attribute/"+id])
	}
	for _, id := range q.Tags {
		extra = append(extra, defs["tag/"+id])
	}
	for _, d := range extra {
		head = append(head, fmt.Sprintf("%s (version_id: %s)", d.Name, d.VersionID))
	}
	var b strings.Builder
	line(&b, head)
	rows := a.shown(q)
	for _, r := range rows {
		cells := make([]string, 0, len(head))
		for _, name := range columns {
			if name == "address" {
				cells = append(cells, address(defs, r))
			} else {
				cells = append(cells, r.ev.cells[name])
			}
		}
		for _, d := range extra {
			cells = append(cells, cellOf(d, r.snap))
		}
		line(&b, cells)
	}
	return b.String(), len(rows)
}

// shown are the rows that the answer to a question holds, in order.
func (a *Answer) shown(q Question) (out []row) {
	for _, r := range a.rows {
		p := Partition{r.rec.Topic, r.rec.Partition}
		if r.ev.account != q.Account || r.ev.serverTime < q.Start || q.End > 0 && r.ev.serverTime >= q.End ||
			r.rec.Offset < q.After[p] || r.rec.Offset >= q.Barrier[p] {
			continue
		}
		var audiences []string
		if r.snap != nil {
			audiences = r.snap.audiences
		}
		if q.Member != "" && !slices.Contains(audiences, q.Member) || q.NotMember != "" && slices.Contains(audiences, q.NotMember) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// Between counts the kept events, of all accounts, from one position up to another,
// and says the greatest log time of them, in ms.
func (a *Answer) Between(after, barrier map[Partition]int64) (rows int, newest int64) {
	for _, r := range a.rows {
		if p := (Partition{r.rec.Topic, r.rec.Partition}); r.rec.Offset >= after[p] && r.rec.Offset < barrier[p] {
			rows, newest = rows+1, max(newest, r.logTime)
		}
	}
	return rows, newest
}

// Span counts the rows of an answer and says between which log times of their
// partitions they lie, in ms, both included.
func (a *Answer) Span(q Question) (rows int, first, last int64) {
	for i, r := range a.shown(q) {
		if i == 0 {
			first, last = r.logTime, r.logTime
		}
		first, last = min(first, r.logTime), max(last, r.logTime)
		rows++
	}
	return rows, first, last
}

// Bare reads a file and leaves of each row what no definition changes, so that
// rows of files that were asked for at different times can be compared.
func Bare(text string) ([]string, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, cells := range rows[1:] {
		cells = cells[:len(columns)]
		cells[slices.Index(columns, "address")] = ""
		out = append(out, strings.Join(cells, "|"))
	}
	return out, nil
}

func cellOf(d definition, s *snapshot) string {
	switch {
	case s == nil:
		return ""
	case d.Kind == "attribute":
		return s.attributes[d.Section][d.VersionID]
	case slices.Contains(s.tags[d.Section], d.VersionID):
		return "TAG"
	}
	return ""
}

// address is the primary email address: of the attribute's versions in the
// event's section, the numerically greatest for which the profile has a value.
func address(defs map[string]definition, r row) string {
	best := ""
	for _, d := range defs {
		if d.Kind != "attribute" || d.Discriminator != email || d.Section != r.ev.section || r.snap == nil {
			continue
		}
		if _, ok := r.snap.attributes[d.Section][d.VersionID]; ok && greater(d.VersionID, best) {
			best = d.VersionID
		}
	}
	if best == "" {
		return ""
	}
	return r.snap.attributes[r.ev.section][best]
}

func greater(x, y string) bool {
	return y == "" || json.Number(x).String() != y && (len(x) > len(y) || len(x) == len(y) && x > y)
}

func line(b *strings.Builder, cells []string) {
	for i, c := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		if strings.ContainsAny(c, ",\"\r\n") {
			c = `"` + strings.ReplaceAll(c, `"`, `""`) + `"`
		}
		b.WriteString(c)
	}
	b.WriteByte('\n')
}
