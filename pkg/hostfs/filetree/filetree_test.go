package filetree_test

import (
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
)

// A path that is taken stays in the folder, whatever it is.
func FuzzPut(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../a", "/a", "a/../b", "..data", "a/..", ".", "..a/b", "a//b", "./a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		files := filetree.Files{}
		if files.Put(name, filetree.File{}) != nil {
			return
		}
		for taken := range files {
			if strings.HasPrefix(taken, "/") || strings.HasPrefix(taken, "..") || strings.Contains("/"+taken+"/", "/../") || taken == "." || taken == "" {
				t.Errorf("%q was taken as %q", name, taken)
			}
		}
	})
}
