package bed_test

import (
	"bufio"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// traces lists what this machine has of a cluster: network namespaces, mounts, cgroups, processes
// and its folder. The cluster's id is part of their names or command lines.
func traces(t *testing.T, id string) []string {
	t.Helper()
	var out []string
	add := func(kind, text string) {
		if strings.Contains(text, id) {
			out = append(out, kind+": "+strings.TrimSpace(text))
		}
	}
	namespaces, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range namespaces {
		add("network namespace", e.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		add("mount", line)
	}
	folders, err := os.ReadDir(bed.BaseDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range folders {
		add("folder", e.Name())
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			add("cgroup", path)
		}
		return nil // a cgroup that went while we looked is none of ours to report
	})
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if line, err := os.ReadFile(p); err == nil && p != "/proc/self/cmdline" {
			add("process", strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// links lists the network links of the namespace that the test runs in.
func links(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestStopLeavesNothing(t *testing.T) {
	bed.Require(t)
	before := links(t)
	c, err := bed.Start(t.Context(), bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(traces(t, c.ID())) < 10 {
		t.Errorf("a running cluster shows too little for this test to mean anything: %q", traces(t, c.ID()))
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if left := traces(t, c.ID()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if after := links(t); !slices.Equal(before, after) {
		t.Errorf("links were %q, are %q", before, after)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("stopping it again: %v", err)
	}
}

// TestKilledOwner kills the process that made a cluster: its machines end at once, and the next
// Start removes the rest.
func TestKilledOwner(t *testing.T) {
	bed.Require(t)
	if os.Getenv("BED_TEST_VICTIM") == "1" {
		c, err := bed.Start(t.Context(), bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("\nvictim " + c.ID() + "\n")
		time.Sleep(time.Minute)
		return
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledOwner$", "-test.v")
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
		id, _ = strings.CutPrefix(s.Text(), "victim ")
		if !strings.HasPrefix(s.Text(), "victim ") {
			id = ""
		}
	}
	if id == "" {
		t.Fatal("the victim started no cluster")
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	waitFor(t, time.Minute, "the killed cluster's processes to end", func() bool {
		return !slices.ContainsFunc(traces(t, id), func(s string) bool { return strings.HasPrefix(s, "process") })
	})

	next, err := bed.Start(t.Context(), bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	if err != nil {
		t.Fatalf("starting after a kill: %v", err)
	}
	if left := traces(t, id); len(left) > 0 {
		t.Errorf("not swept: %q", left)
	}
	if err := next.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestReadyFast limits how long a control plane may take to start. The best of a few tries counts,
// since the machine may be busy, and the first try may build programs.
func TestReadyFast(t *testing.T) {
	bed.Require(t)
	const limit = 20 * time.Second
	best := time.Hour
	for try := 0; try < 5 && best > limit; try++ {
		started := time.Now()
		c, err := bed.Start(t.Context(), bed.Options{})
		best = min(best, time.Since(started))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	t.Logf("started in %s", best)
	if best > limit {
		t.Errorf("starting took %s at best, wanted %s at most", best, limit)
	}
}

// TestCrashes kills what tests of the agent kill, and starts it again.
func TestCrashes(t *testing.T) {
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	n := c.Nodes()[0]
	if err := n.RestartContainerd(t.Context()); err != nil {
		t.Error(err)
	}
	api := c.Process("kube-apiserver")
	if err := api.Kill(); err != nil {
		t.Fatal(err)
	}
	if api.Running() {
		t.Error("the API server runs after it was killed")
	}
	if err := api.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "get", "nodes"); err != nil {
		t.Error(err)
	}
	if _, err := n.Start(bed.Spec{Name: "sleeper", Path: "sleep", Args: []string{"1000"}}); err != nil {
		t.Fatal(err)
	}
	if err := n.Process("sleeper").Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for %s", limit, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
