package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// TestBuild assembles every image for real and looks at what the archives say of themselves.
func TestBuild(t *testing.T) {
	if os.Getenv("NODEAGENT_BED") != "1" || os.Getuid() != 0 {
		t.Skip("needs NODEAGENT_BED=1 and root: it runs debootstrap")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("needs debootstrap")
	}
	b, err := tools.New(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Build(t.Context(), "agnhost", "nonewprivs", "resource-consumer", "regression-issue-74839")
	if err != nil {
		t.Fatal(err)
	}
	paths := ToolPaths{
		Agnhost: p.Get("agnhost"), Nonewprivs: p.Get("nonewprivs"), ResourceConsumer: p.Get("resource-consumer"), Regression74839: p.Get("regression-issue-74839"),
	}
	built, err := Build(t.Context(), b.Cache, paths)
	if err != nil {
		t.Fatal(err)
	}
	archives := Archives(built)
	if len(built) != len(recipes()) || len(archives) != 1 {
		t.Errorf("built %v", built)
	}
	checkArchive(t, archives[0], sorted(recipes()))
	if _, err := Build(t.Context(), b.Cache, paths, "registry.k8s.io/nothing:1"); err == nil {
		t.Error("an unknown image is no error")
	}
	small, err := BuildSmall(t.Context(), b.Cache, paths)
	if err != nil {
		t.Fatal(err)
	}
	checkArchive(t, Archives(small)[0], sorted(smallRecipes()))
}

// checkArchive reads an OCI layout: every digest must be that of its content, and every reference
// wanted must be there.
func checkArchive(t *testing.T, path string, want []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, _ := f.Stat()
	t.Logf("%s: %d MB", path, info.Size()>>20)
	blobs := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && "sha256:"+d != sum(b) {
			t.Errorf("%s holds %s", h.Name, sum(b))
		}
		blobs[h.Name] = b
	}
	var index imagespec.Index
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{}
	for _, d := range index.Manifests {
		refs[d.Annotations["io.containerd.image.name"]] = true
		var m imagespec.Manifest
		if err := json.Unmarshal(blobs[blobPath(string(d.Digest))], &m); err != nil {
			t.Fatal(err)
		}
		for _, l := range append(m.Layers, m.Config) {
			if int64(len(blobs[blobPath(string(l.Digest))])) != l.Size {
				t.Errorf("%s: blob %s is missing or short", d.Annotations["io.containerd.image.name"], l.Digest)
			}
		}
	}
	for _, n := range want {
		if !refs[n] {
			t.Errorf("%s is not in %s", n, path)
		}
	}
}
