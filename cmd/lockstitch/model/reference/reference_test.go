package reference

import (
	"os/exec"
	"strings"
	"testing"
)

// TestSharesNoCodeWithTheProduct: a mistake that both make would be found by
// nobody.
func TestSharesNoCodeWithTheProduct(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		own := dep == "lockstitch/cmd/lockstitch/model/reference"
		if first, _, _ := strings.Cut(dep, "/"); !own && (first == "lockstitch" || strings.Contains(first, ".") || first == "vendor" && !strings.Contains(dep, "golang.org")) {
			t.Errorf("the reference depends on %s", dep)
		}
	}
}
