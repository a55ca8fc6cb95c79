package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestAppArmorProfiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	loaded := filepath.Join(dir, "loaded")
	a := AppArmor{
		profiles: write("profiles", "unconfined-thing (complain)\nweb (enforce)\nweb//child (enforce)\n"),
		parser:   write("parser", "#!/bin/sh\ncat > "+loaded+"\n"),
	}
	if err := a.Ensure(t.Context(), "web"); err != nil {
		t.Errorf("a loaded profile: %v", err)
	}
	for _, name := range []string{"we", "web//", "other"} {
		if err := a.Ensure(t.Context(), name); err == nil || !strings.Contains(err.Error(), "apparmor profile not found "+name) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := os.Stat(loaded); err == nil {
		t.Error("something was loaded before the default profile was asked for")
	}
	if err := a.Ensure(t.Context(), AppArmorProfile); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(loaded)
	if err != nil || !strings.Contains(string(text), "profile "+AppArmorProfile+" ") || !strings.Contains(string(text), "deny mount,") {
		t.Errorf("loaded %q, %v", text, err)
	}
	a.parser = write("refuses", "#!/bin/sh\necho no such feature >&2\nexit 1\n")
	if err := a.Ensure(t.Context(), AppArmorProfile); err == nil || !strings.Contains(err.Error(), "no such feature") {
		t.Errorf("a parser that refuses: %v", err)
	}
	a.parser = filepath.Join(dir, "none")
	if err := a.Ensure(t.Context(), AppArmorProfile); err == nil || !strings.Contains(err.Error(), "install the apparmor package") {
		t.Errorf("no parser: %v", err)
	}
}

// TestTheRootHasTheLabelOfTheContainersFiles: with SELinux the kernel labels a whole file system at
// its mount.
func TestTheRootHasTheLabelOfTheContainersFiles(t *testing.T) {
	root := []mount.Mount{{Type: "overlay", Options: []string{"ro"}}}
	s := &specs.Spec{Linux: &specs.Linux{MountLabel: "system_u:object_r:container_file_t:s0:c1,c2"}}
	got := labelled(root, s)[0].Options
	if len(got) != 2 || got[1] != `context="system_u:object_r:container_file_t:s0:c1,c2"` || len(root[0].Options) != 1 {
		t.Errorf("options %q, of the snapshot's own %q", got, root[0].Options)
	}
	if got := labelled(root, &specs.Spec{Linux: &specs.Linux{}})[0].Options; len(got) != 1 {
		t.Errorf("without a label: %q", got)
	}
}
