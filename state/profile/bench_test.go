package profile

import "testing"

const realistic = `{"account_id":"acme","profile_id":"p-00000000012345","sections":{"usercreated.sections.europe-r6tz73a27t":{"attributes":{"491874":"female","9820534":"anna.andersson@example.com","491875":"1984-02-29","491876":42.50,"491877":true},"tags":["52001","52002",52003]}},"segments":["usercreated.segments.women-rjz6b8td2n","usercreated.segments.vip-aaaabbbbcc"]}`

func BenchmarkDecode(b *testing.B) {
	key, value := []byte("p-00000000012345"), []byte(realistic)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	snap, _, err := Decode(nil, []byte(`{"account_id":"a"}`))
	if err == nil {
		snap, _, err = Decode([]byte("p-00000000012345"), []byte(realistic))
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := Check(snap); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("All", func(b *testing.B) {
		n := 0
		b.ReportAllocs()
		for b.Loop() {
			snap.Attributes(func(_, _ []byte, v Value) { n += len(v.Raw) })
			snap.Tags(func(_, id []byte) { n += len(id) })
			snap.Segments(func(d []byte) { n += len(d) })
		}
		if n == 0 {
			b.Fatal("nothing was read")
		}
	})
}
