package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImportDirections keeps the rooms apart: cmd → consumer, exporter → state;
// inside state the leaves know only leaves.
func TestImportDirections(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "lockstitch/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	leaves := map[string]bool{"event": true, "poison": true, "jsonvalue": true, "profile": true, "segment": true, "objects": true}
	room := func(path string) (top, rest string) {
		top, rest, _ = strings.Cut(strings.TrimPrefix(path, "lockstitch/"), "/")
		return top, rest
	}
	allowed := map[string]string{"cmd": "consumer exporter state", "consumer": "state", "exporter": "exporter state", "state": "state"}
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		fields := strings.Fields(line)
		from, name := room(fields[0])
		for _, imp := range fields[1:] {
			if !strings.HasPrefix(imp, "lockstitch/") {
				continue
			}
			seen++
			to, target := room(imp)
			if !strings.Contains(" "+allowed[from]+" ", " "+to+" ") {
				t.Errorf("%s imports %s", fields[0], imp)
			}
			if from == "state" && leaves[name] && !leaves[target] {
				t.Errorf("%s is a leaf and imports %s", fields[0], imp)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d imports were looked at", seen)
	}
}
