package images

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

func readLayer(t *testing.T, l blob) map[string]*tar.Header {
	t.Helper()
	f, err := os.Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out := map[string]*tar.Header{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		out[h.Name] = h
	}
}

func TestLayer(t *testing.T) {
	src := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(src, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	setuid := program("usr/bin/x", src)
	setuid.mode |= fs.ModeSetuid
	entries := withFolders([]entry{text("etc/a", "first"), setuid, text("etc/a", "second"), symlink("bin", "usr/bin"), {path: "tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777}})
	l, err := writeLayer(t.Context(), t.TempDir(), entries)
	if err != nil {
		t.Fatal(err)
	}
	got := readLayer(t, l)
	for name, want := range map[string]int64{"etc/": 0o755, "etc/a": 0o644, "usr/": 0o755, "usr/bin/": 0o755, "usr/bin/x": 0o4755, "tmp/": 0o1777} {
		if h := got[name]; h == nil || h.Mode != want {
			t.Errorf("%s is %+v", name, h)
		}
	}
	if h := got["etc/a"]; h.Size != int64(len("second")) {
		t.Errorf("etc/a has %d bytes: the first entry won", h.Size)
	}
	if h := got["bin"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "usr/bin" {
		t.Errorf("bin is %+v", h)
	}
	again, err := writeLayer(t.Context(), t.TempDir(), entries)
	if err != nil || again.digest != l.digest {
		t.Errorf("the same entries make %s and %s, %v", l.digest, again.digest, err)
	}
}

func TestTreeEntriesLeavesOutWhatLeadsNowhere(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"usr/bin", "usr/empty", "other"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"usr/bin/mine", "usr/bin/theirs", "other/theirs"} {
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := treeEntries(root, func(p string) bool { return filepath.Base(p) == "mine" })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, e := range withoutEmptyFolders(entries) {
		got[e.path] = true
	}
	if len(got) != 3 || !got["usr"] || !got["usr/bin"] || !got["usr/bin/mine"] {
		t.Errorf("got %v", got)
	}
}

func TestAssembleNamesLayersByContent(t *testing.T) {
	l, err := writeLayer(t.Context(), t.TempDir(), []entry{text("a", "a")})
	if err != nil {
		t.Fatal(err)
	}
	config := imagespec.ImageConfig{Cmd: []string{"sh"}}
	one, err := assemble("x", config, []blob{l})
	if err != nil {
		t.Fatal(err)
	}
	two, err := assemble("y", config, []blob{l})
	if err != nil || sum(one.manifest) != sum(two.manifest) {
		t.Errorf("the same image under two names has two digests, %v", err)
	}
	config.User = "1"
	if three, err := assemble("x", config, []blob{l}); err != nil || sum(three.manifest) == sum(one.manifest) {
		t.Errorf("different images have one digest, %v", err)
	}
}
