package uml

import (
	"os"
	"testing"

	"github.com/nodeagent/nodeagent/test/bed/images"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := tools.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// testDisk holds what a node needs and the small images.
func testDisk(t *testing.T) Disk {
	t.Helper()
	b, err := tools.New(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Build(t.Context(), append(tools.Node(), "agnhost")...)
	if err != nil {
		t.Fatal(err)
	}
	built, err := images.BuildSmall(t.Context(), b.Cache, images.ToolPaths{Agnhost: p.Get("agnhost")})
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for _, n := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		programs[n] = p.Get(n)
	}
	return Disk{Programs: programs, CNI: p.CNIDir(), Images: images.Archives(built)}
}
