package definition

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"lockstitch/state/poison"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// topic applies records to a View without a broker.
type topic struct {
	*View
	next int64
	log  *bytes.Buffer
	reg  *prometheus.Registry
}

func newTopic() *topic {
	var buf bytes.Buffer
	reg := prometheus.NewRegistry()
	return &topic{View: newView(Config{Topic: "definitions", Log: slog.New(slog.NewTextHandler(&buf, nil)), Registerer: reg}), log: &buf, reg: reg}
}

func (tp *topic) put(key, value string) {
	r := &kgo.Record{Key: []byte(key), Offset: tp.next}
	if value != "" {
		r.Value = []byte(value)
	}
	tp.next++
	if err := tp.apply(r); err != nil {
		panic(err) // no record is refused
	}
}

func attributeJSON(version, section, discriminator, name string) string {
	return fmt.Sprintf(`{"kind":"attribute","account_id":"a","version_id":%s,"discriminator":"%s","section":"%s","name":"%s","type":"number"}`, version, discriminator, section, name)
}

func TestKinds(t *testing.T) {
	tp := newTopic()
	tp.put("1", `{"kind":"section","account_id":"a","discriminator":"s2","name":"Two"}`)
	tp.put("2", `{"kind":"section","account_id":"a","discriminator":"s1","name":"One","x":[{}]}`)
	tp.put("3", `{"kind":"attribute","account_id":"a","version_id":"0491874","discriminator":"gender","section":"s1","name":"Gender","type":"date"}`)
	tp.put("4", `{"kind":"tag","account_id":"a","version_id":52001,"discriminator":"vip","section":"s1","name":"VIP"}`)
	tp.put("5", `{"kind":"segment","account_id":"a","discriminator":"women","name":"Women"}`)
	tp.put("6", `{"kind":"segment","account_id":"b","discriminator":"men","name":"Men"}`)
	a := tp.Account("a")
	if got, want := a.Sections(), []Section{{"s1", "One"}, {"s2", "Two"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("sections %v", got)
	}
	if s, ok := a.Section("s2"); !ok || s.Name != "Two" {
		t.Errorf("section s2: %v, %v", s, ok)
	}
	gender := Attribute{"491874", "gender", "s1", "Gender", Date}
	for _, id := range []string{"491874", "0491874"} {
		if got, ok := a.AttributeByVersion(id); !ok || got != gender {
			t.Errorf("attribute %s: %v, %v", id, got, ok)
		}
	}
	if got, ok := a.AttributeByName("s1", "gender"); !ok || got != gender {
		t.Errorf("attribute by name: %v, %v", got, ok)
	}
	vip := Tag{"52001", "vip", "s1", "VIP"}
	if got, ok := a.TagByVersion("52001"); !ok || got != vip {
		t.Errorf("tag: %v, %v", got, ok)
	}
	if got, ok := a.TagByName("s1", "vip"); !ok || got != vip {
		t.Errorf("tag by name: %v, %v", got, ok)
	}
	if got, ok := a.Segment("women"); !ok || got.Name != "Women" {
		t.Errorf("segment: %v, %v", got, ok)
	}
	absent := map[string]bool{}
	_, absent["attribute of a tag's id"] = a.AttributeByVersion("52001")
	_, absent["tag of an attribute's id"] = a.TagByVersion("491874")
	_, absent["attribute of a text"] = a.AttributeByVersion("gender")
	_, absent["attribute of another section"] = a.AttributeByName("s2", "gender")
	_, absent["tag of another section"] = a.TagByName("s2", "vip")
	_, absent["segment of another account"] = a.Segment("men")
	_, absent["section of an unknown account"] = tp.Account("c").Section("s1")
	for what, found := range absent {
		if found {
			t.Errorf("found: %s", what)
		}
	}
	if n := len(tp.Account("c").Sections()); n != 0 {
		t.Errorf("an unknown account has %d sections", n)
	}
}

func TestGreatestVersion(t *testing.T) {
	tp := newTopic()
	for _, v := range []string{`9`, `"10"`, `"007"`, `"9999999999999999999"`, `100`} {
		tp.put("k"+v, attributeJSON(v, "s", EmailDiscriminator, "n"))
		tp.put("t"+v, strings.Replace(attributeJSON(v, "s", "d", "n"), `"attribute"`, `"tag"`, 1))
	}
	tp.put("other", attributeJSON("200", "s2", EmailDiscriminator, "n"))
	a := tp.Account("a")
	if at, _ := a.AttributeByName("s", EmailDiscriminator); at.VersionID != "9999999999999999999" {
		t.Errorf("attribute %v", at)
	}
	if tag, _ := a.TagByName("s", "d"); tag.VersionID != "9999999999999999999" {
		t.Errorf("tag %v", tag)
	}
	var ids []string
	for _, v := range a.EmailVersions("s") {
		ids = append(ids, v.VersionID)
	}
	if want := []string{"9999999999999999999", "100", "10", "9", "7"}; !reflect.DeepEqual(ids, want) {
		t.Errorf("email versions %v, want %v", ids, want)
	}
	if got := a.EmailSections(); !reflect.DeepEqual(got, []string{"s", "s2"}) {
		t.Errorf("email sections %v", got)
	}
	if got := a.EmailVersions("s3"); len(got) != 0 {
		t.Errorf("email versions of a section without: %v", got)
	}
}

func (tp *topic) name(id string) string {
	at, ok := tp.Account("a").AttributeByVersion(id)
	if !ok {
		return "absent"
	}
	return at.Name
}

func TestKeys(t *testing.T) {
	tp := newTopic()
	step := func(key, value, name1, name2 string) {
		t.Helper()
		tp.put(key, value)
		if got1, got2 := tp.name("1"), tp.name("2"); got1 != name1 || got2 != name2 {
			t.Errorf("at offset %d: 1 is %s, 2 is %s; want %s, %s", tp.next-1, got1, got2, name1, name2)
		}
	}
	step("k", attributeJSON("1", "s", "d", "first"), "first", "absent")
	step("k", attributeJSON("1", "s", "d", "second"), "second", "absent")
	step("k", attributeJSON("2", "s", "d", "other"), "absent", "other")
	step("k", "", "absent", "absent")
	step("never", "", "absent", "absent")
	step("a", attributeJSON("1", "s", "d", "of a"), "of a", "absent")
	step("b", attributeJSON("1", "s", "d", "of b"), "of b", "absent")
	step("a", attributeJSON(`"01"`, "s", "d", "of a again"), "of a again", "absent")
	step("a", `{"kind":"attribute"`, "of b", "absent")
	step("a", `{"kind":"x"}`, "of b", "absent")
	step("b", "null", "absent", "absent")
	step("k", strings.Replace(attributeJSON("1", "s", "d", "elsewhere"), `"a"`, `"z"`, 1), "absent", "absent")
	if n := len(tp.table.byKey); n != 1 {
		t.Errorf("%d keys are kept, want 1", n)
	}
	if n := len(tp.table.accounts); n != 1 {
		t.Errorf("%d accounts are kept, want 1", n)
	}
	const counted = `
# HELP lockstitch_definitions_malformed_total Records of the definitions topic that were no definition; each deleted what its key said before.
# TYPE lockstitch_definitions_malformed_total counter
lockstitch_definitions_malformed_total 3
`
	if err := testutil.GatherAndCompare(tp.reg, strings.NewReader(counted), "lockstitch_definitions_malformed_total"); err != nil {
		t.Error(err)
	}
	unusable := func(want int) {
		t.Helper()
		text := fmt.Sprintf(`
# HELP lockstitch_definitions_unusable Keys of the definitions topic whose newest record is no definition: what they said before is deleted.
# TYPE lockstitch_definitions_unusable gauge
lockstitch_definitions_unusable %d
`, want)
		if err := testutil.GatherAndCompare(tp.reg, strings.NewReader(text), "lockstitch_definitions_unusable"); err != nil {
			t.Error(err)
		}
	}
	unusable(2)
	tp.put("a", attributeJSON("1", "s", "d", "put right"))
	unusable(1)
	tp.put("b", "")
	unusable(0)
	if n := strings.Count(tp.log.String(), "malformed definition"); n != 3 {
		t.Errorf("%d lines were logged, want 3:\n%s", n, tp.log)
	}
}

func TestAccountIsASnapshot(t *testing.T) {
	tp := newTopic()
	tp.put("k", attributeJSON("1", "s", EmailDiscriminator, "old"))
	before := tp.Account("a")
	if tp.Account("a") != before {
		t.Error("an unchanged account was made twice")
	}
	before.EmailVersions("s")[0].Name = "changed by its receiver"
	tp.put("k", attributeJSON("1", "s", EmailDiscriminator, "new"))
	tp.put("l", attributeJSON("2", "s", EmailDiscriminator, "newer"))
	if vs := before.EmailVersions("s"); len(vs) != 1 || vs[0].Name != "old" {
		t.Errorf("the snapshot changed: %v", vs)
	}
	if vs := tp.Account("a").EmailVersions("s"); len(vs) != 2 || vs[1].Name != "new" {
		t.Errorf("the new snapshot: %v", vs)
	}
}

func TestDecodeTypes(t *testing.T) {
	for in, want := range map[string]Type{
		`"text"`: Text, `"boolean"`: Boolean, `"date"`: Date, `"timestamp"`: Timestamp, `"number"`: Number,
		`"decimal"`: Decimal, `"location"`: Location, `"Date"`: Text, `"money"`: Text, `""`: Text, `null`: Text,
	} {
		d, err := decode([]byte(`{"kind":"attribute","account_id":"a","version_id":1,"discriminator":"d","section":"s","name":"n","type":` + in + `}`))
		if err != nil || d.typ != want {
			t.Errorf("type %s: %s, %v, want %s", in, d.typ, err, want)
		}
	}
	d, err := decode([]byte(`{"kind":"attribute","account_id":"a","version_id":1,"discriminator":"d","section":"s","name":"n"}`))
	if err != nil || d.typ != Text {
		t.Errorf("no type: %s, %v", d.typ, err)
	}
}

func TestDecodeMalformed(t *testing.T) {
	tag := `{"kind":"tag","account_id":"a","version_id":"1","discriminator":"d","section":"s","name":"n"}`
	if _, err := decode([]byte(tag)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new string
		want     poison.Reason
	}{
		{tag, ``, poison.NotJSON},
		{tag, `[]`, poison.NotObject},
		{tag, strings.Repeat("[", 10_000), poison.TooDeep},
		{tag, `{"kind":"section","account_id":"a","name":"n"}`, poison.MissingField},
		{tag, `{"kind":"segment","account_id":"a","discriminator":1,"name":"n"}`, poison.WrongType},
		{tag, `{"kind":"attribute","account_id":"a","version_id":"1","discriminator":"d","section":"s","name":"n","type":1}`, poison.WrongType},
		{`"tag"`, `"Tag"`, poison.UnknownType},
		{`"tag"`, `null`, poison.MissingField},
		{`"tag"`, `["tag"]`, poison.WrongType},
		{`"account_id"`, `"x"`, poison.MissingField},
		{`"version_id"`, `"x"`, poison.MissingField},
		{`"discriminator"`, `"x"`, poison.MissingField},
		{`"section"`, `"x"`, poison.MissingField},
		{`"name"`, `"x"`, poison.MissingField},
		{`"1"`, `1.0`, poison.WrongType},
		{`"1"`, `""`, poison.OutOfRange},
		{`"1"`, `-1`, poison.OutOfRange},
		{`"1"`, `"x"`, poison.OutOfRange},
		{`"1"`, `10000000000000000000`, poison.OutOfRange},
		{`"s"`, `7`, poison.WrongType},
	} {
		in := strings.Replace(tag, c.old, c.new, 1)
		_, err := decode([]byte(in))
		var perr *poison.Error
		ok := errors.As(err, &perr)
		if !ok || perr.Reason != c.want {
			t.Errorf("%.100s: %v, want %s", in, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"section","account_id":"a","discriminator":"s","name":"n"}`))
	f.Add([]byte(`{"kind":"segment","account_id":"\ud800","discriminator":"s","name":"n"}`))
	f.Add([]byte(`{"kind":"tag","account_id":"a","version_id":"01","discriminator":"d","section":"s","name":"n"}`))
	f.Add([]byte(`{"kind":"attribute","account_id":"a","version_id":1,"discriminator":"d","section":"s","name":"n","type":"date"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		d, err := decode(value)
		if err != nil {
			var perr *poison.Error
			if !errors.As(err, &perr) {
				t.Fatalf("not a poison error: %v", err)
			}
			return
		}
		tp := newTopic()
		tp.put("k", string(value))
		a := tp.Account(d.account)
		var found bool
		switch d.kind {
		case kindSection:
			_, found = a.Section(d.id)
		case kindSegment:
			_, found = a.Segment(d.id)
		case kindAttribute:
			_, found = a.AttributeByVersion(d.id)
		case kindTag:
			_, found = a.TagByVersion(d.id)
		}
		if !found {
			t.Fatalf("%v cannot be found", d)
		}
		tp.put("k", "")
		if len(tp.table.accounts) != 0 {
			t.Fatalf("%v is still there", d)
		}
	})
}
