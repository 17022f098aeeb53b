package event

import (
	"fmt"
	"testing"
)

const realistic = `{"correlation_id":"6f1c1d9e-3b1f-4c7d-9a53-0f3f5d2f7a10","type":"OPENED","account_id":"acme","section":"usercreated.sections.europe-r6tz73a27t","profile_id":"p-00000000012345","activity_id":"812377","activity_name":"Spring sale 2026","sender":"news@example.com","subject":"Don't miss out: 20% off","event_time":1771000000000,"server_time":1771000001234,"device":"Mobile: iPhone","location":"Sweden, Stockholm"}`

func BenchmarkDecode(b *testing.B) {
	for name, v := range map[string]string{
		"realistic": realistic,
		"escapes":   `{` + base + `,"subject":"R\u00e4ksm\u00f6rg\u00e5s \ud83c\udf5e \"now\"","sender":"a@example.com"}`,
		"non-ascii": `{` + base + `,"subject":"Räksmörgås 🍞 – nu på rea","sender":"åsa@example.com"}`,
		"nested":    `{` + base + `,"extra":{"a":[1,2,3]},"subject":"x"}`,
		"poison":    `{` + base + `,"server_time":-1}`,
	} {
		b.Run(fmt.Sprintf("%s-%d", name, len(v)), func(b *testing.B) {
			var d Decoder
			var ev Event
			value, key := []byte(v), []byte("p-00000000012345")
			b.SetBytes(int64(len(v)))
			b.ReportAllocs()
			for b.Loop() {
				err := d.Decode(key, value, kafkaTime, &ev)
				if (err != nil) != (name == "poison") {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeSlow(b *testing.B) {
	var d Decoder
	var ev Event
	value := []byte(realistic)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.decodeSlow(nil, value, kafkaTime, &ev); err != nil {
			b.Fatal(err)
		}
	}
}
