package main

import (
	"strings"
	"testing"
)

// TestEachClusterHasItsOwnKubectl: clusters that are up side by side in one checkout do not share
// the file, and each is told its own.
func TestEachClusterHasItsOwnKubectl(t *testing.T) {
	files := map[string]string{}
	for _, id := range []string{defaultID, "a", "b"} {
		if other, taken := files[wrapper(id)]; taken {
			t.Errorf("clusters %q and %q both write %s", other, id, wrapper(id))
		}
		files[wrapper(id)] = id
		var told strings.Builder
		if err := (upOptions{id: id, log: &told}).explain(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(told.String(), wrapper(id)+" get nodes") || strings.Contains(told.String(), "--id "+id) != (id != defaultID) {
			t.Errorf("cluster %q is told:\n%s", id, told.String())
		}
	}
}
