package bed_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestKilledScratch kills a test that has a mount in its scratch folder and a cgroup. Sweep removes
// them, but only then.
func TestKilledScratch(t *testing.T) {
	bed.Require(t)
	if os.Getenv("BED_TEST_VICTIM") == "1" {
		s, err := bed.NewScratch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", s.Dir(), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range append(roots, "/sys/fs/cgroup/cgroup.procs") {
			if _, err := os.Stat(root); err == nil {
				if err := os.MkdirAll(filepath.Join(filepath.Dir(root), s.Cgroup(), "1/below"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = os.Stdout.WriteString("\nvictim " + filepath.Base(filepath.Dir(s.Dir())) + "\n")
		time.Sleep(time.Minute)
		return
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledScratch$", "-test.v")
	victim.Env = append(os.Environ(), "BED_TEST_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	id := ""
	for s := bufio.NewScanner(out); id == "" && s.Scan(); {
		if found, ok := strings.CutPrefix(s.Text(), "victim "); ok {
			id = found
		}
	}
	if id == "" {
		t.Fatal("the victim made no scratch folder")
	}
	if err := bed.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if len(traces(t, id)) < 4 {
		t.Errorf("a sweep touched a test that runs, or it shows too little: %q", traces(t, id))
	}
	if running, err := bed.List(); err != nil || strings.Contains(strings.Join(running, " "), id) {
		t.Errorf("it is listed as a cluster: %q, %v", running, err)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if err := bed.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if left := traces(t, id); len(left) > 0 {
		t.Errorf("not swept: %q", left)
	}
}
