package seed

import "testing"

func TestFolderOf(t *testing.T) {
	for _, tc := range []struct {
		callers []string
		want    string
	}{
		{[]string{"lockstitch/internal/seed.New", "lockstitch/internal/seed.Rand", "lockstitch/state/local.TestX", "testing.tRunner"}, "state/local"},
		{[]string{"lockstitch/internal/seed.New", "testing.tRunner"}, "..."},
		{[]string{"lockstitch/consumer.(*world).clock.func1", "lockstitch/state/kafka.X"}, "consumer"},
	} {
		if got := folderOf(tc.callers); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.callers, got, tc.want)
		}
	}
}

func TestGivenSeedIsTheOnlyOne(t *testing.T) {
	t.Setenv("LOCKSTITCH_SEED", "42")
	var got []uint64
	Each(t, 3, func(_ *testing.T, n uint64) { got = append(got, n) })
	if len(got) != 1 || got[0] != 42 || New(t) != 42 {
		t.Errorf("seeds %v", got)
	}
}
