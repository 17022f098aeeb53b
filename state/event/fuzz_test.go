package event

import "testing"

func FuzzDecode(f *testing.F) {
	seed := func(v string) { f.Add([]byte("key"), []byte(v), int64(kafkaTime), "") }
	seed(realistic)
	seed(`{` + base + `,"activity_id":12,"x":{"y":[1.5e3,null]},"subject":"\u00e5\ud800"}`)
	seed("{" + base + ",\"subject\":\"\xf0\x9f\x98\"}")
	seed(`{` + base + `,"server_time":253402300799999,"event_time":-9223372036854775808,"section":null}`)
	seed(`{ ` + base + ` , "type":"CLICKED","link_id":-0,"device":"d" } `)
	seed(`[{}]`)
	f.Add([]byte("\xe2\x82"), []byte(`{`+base+`}`), int64(-1), "d")
	f.Fuzz(func(t *testing.T, key, value []byte, at int64, account string) {
		_, _ = decodeAll(t, account, key, value, at)
	})
}
