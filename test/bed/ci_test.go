package bed_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// TestKilledCI kills only .ci/run in the middle of a step. The next run ends the step's processes
// and removes what they had, and does not touch another run that is still going.
func TestKilledCI(t *testing.T) {
	bed.Require(t)
	source, err := tools.FindSource()
	if err != nil {
		t.Fatal(err)
	}
	step := filepath.Join(t.TempDir(), "step")
	script := "#!/bin/bash\nmkdir $TMPDIR/m && mount -t tmpfs none $TMPDIR/m || exit 1\nsetsid sleep 1000 &\necho here $TMPDIR $!\nsleep 1000\n"
	if err := os.WriteFile(step, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	start := func() (run *exec.Cmd, folder, pid string) {
		run = exec.CommandContext(t.Context(), filepath.Join(source, ".ci/run"), "step")
		run.Env = append(os.Environ(), "MAKE="+step)
		out, err := run.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(out); s.Scan(); {
			if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "here" {
				return run, f[1], f[2]
			}
		}
		t.Fatal("the run started no step")
		return nil, "", ""
	}
	there := func(folder, pid string) (out []string) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), " "+folder+"/m ") {
			out = append(out, "mount")
		}
		if _, err := os.Stat(folder); err == nil {
			out = append(out, "folder")
		}
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.HasPrefix(string(line), "sleep") {
			out = append(out, "process")
		}
		return out
	}
	killed, folder, pid := start()
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	waitFor(t, time.Minute, "all traces of the killed run, without which this test means nothing", func() bool { return len(there(folder, pid)) == 3 })
	other, otherFolder, otherPID := start()
	waitFor(t, time.Minute, "the killed run's traces to go", func() bool { return len(there(folder, pid)) == 0 })
	next := exec.CommandContext(t.Context(), filepath.Join(source, ".ci/run"), "step")
	next.Env = append(os.Environ(), "MAKE=true")
	if out, err := next.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := there(otherFolder, otherPID); len(got) != 3 {
		t.Errorf("a run swept one that goes on; it left %q", got)
	}
	// The step fails when its process ends, and the run cleans up.
	number, err := strconv.Atoi(otherPID)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "pkill", "-KILL", "-P", strconv.Itoa(parent(t, number))).Run(); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(); err == nil {
		t.Error("the step failed and the run did not")
	}
	if got := there(otherFolder, otherPID); len(got) > 0 {
		t.Errorf("a failed run left %q", got)
	}
}

// parent returns the parent's pid of a process.
func parent(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	id, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return id
}
