package cgroup_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
)

// The tree is written to the machine's real hierarchies, v1 or v2, below the test's own root.
func TestTreeOnTheKernel(t *testing.T) {
	root := fmt.Sprintf("/nodeagenttest%d", os.Getpid())
	t.Run("cgroupfs", func(t *testing.T) { onTheKernel(t, cgroup.Layout{Root: root, PerQOS: true}) })
	t.Run("systemd", func(t *testing.T) {
		if !systemd.IsRunningSystemd() {
			t.Skip("systemd does not run here")
		}
		onTheKernel(t, cgroup.Layout{Root: root, PerQOS: true, Systemd: true})
	})
}

func onTheKernel(t *testing.T, layout cgroup.Layout) {
	tree := newTree(t, layout)
	ctx := context.Background()
	if err := tree.Ensure(ctx, cgroup.Limits{Shares: 1024, Memory: 1 << 30}); err != nil {
		if os.IsPermission(err) || os.Geteuid() != 0 {
			t.Skipf("cgroups cannot be written here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, layout) })

	pod := &corev1.Pod{}
	pod.UID = "11-22"
	pod.Spec.Containers = []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
	}}}
	for range 2 { // ensuring is idempotent
		must(t, tree.EnsurePod(ctx, pod))
	}
	must(t, tree.SetLevels([]*corev1.Pod{pod}))
	// as after a restart: the level's shares stay
	must(t, newTree(t, layout).Ensure(ctx, cgroup.Limits{Shares: 1024, Memory: 1 << 30}))
	wantPods(t, tree, "11-22")
	dir, level := tree.Dir(tree.Pod(pod)), tree.Dir(tree.Level(corev1.PodQOSBurstable))
	if tree.V2() {
		wantFile(t, dir, "memory.max", "67108864")
		wantFile(t, dir, "cpu.max", "50000 100000")
		wantFile(t, dir, "pids.max", "100")
	} else {
		wantFile(t, "memory"+dir, "memory.limit_in_bytes", "67108864")
		wantFile(t, "cpu"+dir, "cpu.cfs_quota_us", "50000")
		wantFile(t, "cpu"+dir, "cpu.shares", "256")
		wantFile(t, "cpu"+level, "cpu.shares", "256")
		wantFile(t, "pids"+dir, "pids.max", "100")
	}

	pod.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = resource.MustParse("128Mi")
	must(t, tree.EnsurePod(ctx, pod)) // a resize
	if tree.V2() {
		wantFile(t, dir, "memory.max", "134217728")
	} else {
		wantFile(t, "memory"+dir, "memory.limit_in_bytes", "134217728")
	}

	resizeOnTheKernel(t, tree, pod)

	stray := straggler(t, tree.V2(), dir)
	must(t, tree.RemovePod(ctx, pod.UID))
	wantPods(t, tree)
	if err := stray.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process left in the pod ended with: %v", err)
	}
	must(t, tree.RemovePod(ctx, pod.UID)) // removing what is gone is no error
}

// straggler runs a process below the pod's cgroup, like a container's.
func straggler(t *testing.T, v2 bool, dir string) *exec.Cmd {
	t.Helper()
	below := filepath.Join("/sys/fs/cgroup/memory", dir, "c0ffee")
	if v2 {
		below = filepath.Join("/sys/fs/cgroup", dir, "c0ffee")
	}
	must(t, os.Mkdir(below, 0o755))
	cmd := exec.Command("sleep", "60")
	must(t, cmd.Start())
	must(t, os.WriteFile(filepath.Join(below, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o644))
	return cmd
}

func newTree(t *testing.T, layout cgroup.Layout) *cgroup.Tree {
	t.Helper()
	tree, err := cgroup.New(cgroup.Config{
		Layout:  layout,
		Enforce: cgroup.Enforce{CPUPeriod: 100000, Pids: 100},
		Log:     slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return tree
}

func removeAll(t testing.TB, layout cgroup.Layout) {
	t.Helper()
	if layout.Systemd {
		out, err := exec.Command("systemctl", "stop", strings.TrimPrefix(layout.Root, "/")+".slice").CombinedOutput()
		if err != nil {
			t.Errorf("stopping the test's slice: %v: %s", err, out)
		}
		return
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + layout.Root)
	must(t, err)
	for _, dir := range append(dirs, "/sys/fs/cgroup"+layout.Root) {
		left, err := filepath.Glob(dir + "/kubepods/*/pod*")
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		must(t, cgroups.RemovePath(dir))
	}
}

func wantPods(t *testing.T, tree *cgroup.Tree, want ...types.UID) {
	t.Helper()
	got, err := tree.Pods()
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pods: got %v, want %v", got, want)
	}
}

func wantFile(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, name))
	must(t, err)
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("%s/%s: got %q, want %q", dir, name, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// resizeOnTheKernel changes CPU and memory in opposite directions: first the limits that grow, then
// the rest.
func resizeOnTheKernel(t *testing.T, tree *cgroup.Tree, pod *corev1.Pod) {
	ctx, dir := context.Background(), tree.Dir(tree.Pod(pod))
	limits := func(cpu, memory string) {
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
	want := func(quota, memory string) {
		t.Helper()
		if tree.V2() {
			wantFile(t, dir, "memory.max", memory)
			wantFile(t, dir, "cpu.max", quota+" 100000")
			return
		}
		wantFile(t, "memory"+dir, "memory.limit_in_bytes", memory)
		wantFile(t, "cpu"+dir, "cpu.cfs_quota_us", quota)
	}
	limits("750m", "64Mi")
	must(t, tree.ResizePod(ctx, pod, true))
	want("75000", "134217728")
	must(t, tree.ResizePod(ctx, pod, false))
	want("75000", "67108864")
	limits("300m", "96Mi")
	must(t, tree.ResizePod(ctx, pod, true))
	want("75000", "100663296")
	for range 2 {
		must(t, tree.ResizePod(ctx, pod, false))
		want("30000", "100663296")
	}
	gone := pod.DeepCopy()
	gone.UID = "33-44" // one that has no group yet
	must(t, tree.ResizePod(ctx, gone, true))
	must(t, tree.ResizePod(ctx, gone, false))
	must(t, tree.RemovePod(ctx, gone.UID))
}

// A limit below current usage is refused before the kernel gets it, which on v2 would start to
// kill.
func TestResizeBelowUsage(t *testing.T) {
	layout := cgroup.Layout{Root: fmt.Sprintf("/nodeagenttest%du", os.Getpid()), PerQOS: true}
	tree := newTree(t, layout)
	if err := tree.Ensure(context.Background(), cgroup.Limits{Shares: 1024}); err != nil {
		t.Skipf("cgroups cannot be written here: %v", err)
	}
	t.Cleanup(func() { removeAll(t, layout) })
	pod := &corev1.Pod{}
	pod.UID = "55-66"
	limit := func(memory string) {
		pod.Spec.Containers = []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)},
		}}}
	}
	limit("64Mi")
	must(t, tree.EnsurePod(context.Background(), pod))
	dir := tree.Dir(tree.Pod(pod))
	stray := straggler(t, tree.V2(), dir)
	limit("4Ki")
	err := tree.ResizePod(context.Background(), pod, false)
	if err == nil || !strings.Contains(err.Error(), "memory limit (4096) below current usage (") {
		t.Errorf("got %v", err)
	}
	limit("64Mi")
	must(t, tree.ResizePod(context.Background(), pod, false))
	must(t, tree.RemovePod(context.Background(), pod.UID))
	_ = stray.Wait()
}

// TestTwoAgentsShareKubepods: an agent removes only its own groups, never the other agent's pods or
// the levels that it uses.
func TestTwoAgentsShareKubepods(t *testing.T) {
	layout := cgroup.Layout{Root: fmt.Sprintf("/nodeagent-test-owners-%d", os.Getpid()), PerQOS: true}
	agent := func(root string) *cgroup.Tree {
		tree, err := cgroup.New(cgroup.Config{Layout: layout, Owner: root, Log: slog.New(slog.DiscardHandler)})
		must(t, err)
		if err := tree.Ensure(t.Context(), cgroup.Limits{}); err != nil {
			if os.IsPermission(err) || os.Geteuid() != 0 {
				t.Skipf("cgroups cannot be written here: %v", err)
			}
			t.Fatal(err)
		}
		return tree
	}
	one, two := agent("/var/lib/one"), agent("/var/lib/two")
	defer removeAll(t, layout)
	must(t, one.EnsurePod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "a"}}))
	must(t, two.EnsurePod(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "b"}}))
	for uid, want := range map[types.UID]bool{"a": false, "b": true} {
		if got, err := one.Others(uid); err != nil || got != want {
			t.Errorf("pod %s is another agent's: %v, %v", uid, got, err)
		}
	}
	must(t, one.RemovePod(t.Context(), "a"))
	must(t, two.RemovePod(t.Context(), "b"))
	if removed, err := one.Remove(); removed || err != nil {
		t.Errorf("the levels of another agent, which has no pod just now, are removed: %v, %v", removed, err)
	}
	if removed, err := two.Remove(); !removed || err != nil {
		t.Errorf("the last agent leaves the levels: %v, %v", removed, err)
	}
}
