package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/bed/uml"
)

// Sweep removes what killed runs left. Clusters in use stay.
func Sweep(ctx context.Context) error {
	unlock, err := lockBase(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return sweepLocked(ctx)
}

// List returns the clusters in use: detached ones and those of running tests.
func List() ([]string, error) {
	dirs, err := runDirs()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range dirs {
		if r, err := loadRun(d); err == nil && r.rec.alive() && !r.rec.Scratch {
			out = append(out, r.rec.ID)
		}
	}
	return out, nil
}

// Env returns the environment (NAME=VALUE) of a running cluster: KUBECONFIG, PATH, BED_ID,
// BED_NETNS.
func Env(id string) ([]string, error) {
	r, err := loadRun(filepath.Join(BaseDir(), id))
	if err != nil {
		return nil, fmt.Errorf("finding cluster %q (`bed list` names those that run): %w", id, err)
	}
	return r.rec.Env, nil
}

// MachineCommand prepares a program inside a machine of a cluster, whichever process started it.
func MachineCommand(ctx context.Context, id, name string, command []string) (*exec.Cmd, error) {
	r, err := loadRun(filepath.Join(BaseDir(), id))
	if err != nil {
		return nil, fmt.Errorf("finding cluster %q (`bed list` names those that run): %w", id, err)
	}
	for _, rec := range r.rec.Machines {
		if rec.Name == name && rec.Holder.alive() {
			m := &machine{run: r, name: name, netns: rec.NetNS, holder: rec.Holder}
			env := r.rec.Env
			if rec.Path != "" {
				env = append(env, "PATH="+rec.Path)
			}
			return m.command(ctx, env, command[0], command[1:]...), nil
		}
	}
	return nil, fmt.Errorf("finding machine %q of cluster %q: there is none that runs; nodes are called n1, n2, …", name, id)
}

// Down removes a cluster, whichever process started it. If there is none, the error is
// fs.ErrNotExist.
func Down(ctx context.Context, id string) error {
	unlock, err := lockBase(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := loadRun(filepath.Join(BaseDir(), id))
	if err != nil {
		return fmt.Errorf("finding cluster %q: %w", id, err)
	}
	return removeRun(ctx, r)
}

func runDirs() ([]string, error) {
	entries, err := os.ReadDir(BaseDir())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("listing run folders: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(BaseDir(), e.Name()))
		}
	}
	return out, nil
}

// sweepLocked removes dead runs. The caller holds the base folder's lock, so no run is half
// created.
func sweepLocked(ctx context.Context) error {
	dirs, err := runDirs()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range dirs {
		r, err := loadRun(d)
		if err != nil {
			// It was killed between creating the folder and writing its record: nothing else exists
			// yet.
			errs = append(errs, os.RemoveAll(d))
			continue
		}
		if !r.rec.alive() {
			errs = append(errs, removeRun(ctx, r))
		}
	}
	return errors.Join(append(errs, sweepUMLTests(ctx))...)
}

// sweepUMLTests removes what killed tests of package uml left; they know no clusters.
func sweepUMLTests(ctx context.Context) error {
	var errs []error
	found, _ := filepath.Glob(netnsDir + uml.TestPrefix + "*")
	for _, path := range found {
		name := filepath.Base(path)
		pid, err := strconv.Atoi(strings.TrimPrefix(name, uml.TestPrefix))
		if err != nil {
			continue // none of ours
		}
		if _, err := identify(pid); err == nil {
			// the test runs, or another process has its pid: a later sweep removes it
			continue
		}
		errs = append(errs, removeNetNS(ctx, name), uml.Sweep(filepath.Join(os.TempDir(), name)))
	}
	return errors.Join(errs...)
}

// removeRun ends and removes everything that a run has recorded, then its folder. It goes through
// all steps whatever fails. If anything remains, so does the folder, and the next sweep tries
// again.
func removeRun(ctx context.Context, r *run) error {
	rec := r.snapshot()
	var errs []error
	for _, p := range rec.Foreign {
		errs = append(errs, p.kill())
	}
	for _, m := range rec.Machines {
		if m.NetNS == "" { // User-Mode Linux: its processes must end all at once
			errs = append(errs, uml.Sweep(r.path(m.Name)))
		}
	}
	// Nodes first: without an API server an agent would fill its log until it is ended.
	for i := len(rec.Machines) - 1; i >= 0; i-- {
		errs = append(errs, rec.Machines[i].Holder.kill())
	}
	for _, m := range rec.Machines {
		errs = append(errs, removeNetNS(ctx, m.NetNS))
	}
	errs = append(errs, unmountBelow(r.dir))
	for _, g := range rec.Cgroups {
		errs = append(errs, removeCgroup(g))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("taking down cluster %q: %w", rec.ID, err)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("removing run folder: %w", err)
	}
	return nil
}

// removeNetNS ends processes in one of our network namespaces, such as a kubectl, and deletes it
// with its links.
func removeNetNS(ctx context.Context, name string) error {
	if name == "" { // a node with a kernel of its own
		return nil
	}
	if _, err := os.Stat(netnsDir + name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	pids, err := exec.CommandContext(ctx, "ip", "netns", "pids", name).Output()
	if err == nil {
		for _, f := range strings.Fields(string(pids)) {
			pid, err := strconv.Atoi(f)
			if err != nil || pid == os.Getpid() {
				continue
			}
			if id, err := identify(pid); err == nil {
				_ = id.kill()
			}
		}
	}
	return ip(ctx, "netns", "delete", name)
}

// unmountBelow unmounts every mount below a folder, the deepest first.
func unmountBelow(dir string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	var errs []error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmounting %q: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// cgroupRoots lists the roots of the cgroup hierarchies: one on version 2, one for each controller
// on version 1.
func cgroupRoots() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(info)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 5 {
			continue
		}
		if t := strings.Fields(after)[0]; t == "cgroup" || t == "cgroup2" {
			out = append(out, f[4])
		}
	}
	sort.Strings(out)
	return out, nil
}

// makeCgroup creates a cgroup of this name below the root of every hierarchy. On version 1 it
// initialises the empty cpuset; on version 2 it delegates the controllers.
func makeCgroup(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making cgroup: %w", err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if content, err := os.ReadFile(filepath.Join(root, f)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, f), content, 0); err != nil {
					return fmt.Errorf("setting up cgroup: %w", err)
				}
			}
		}
		if err := delegate(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// delegate enables every controller of a version 2 hierarchy for dir's children.
func delegate(root, dir string) error {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return nil //nolint:nilerr // version 1 has no such file and nothing to hand down
	}
	for _, d := range []string{root, dir} {
		for _, c := range strings.Fields(string(controllers)) {
			// A controller that the root cannot delegate is missing for everybody below.
			_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
	}
	return nil
}

// removeCgroup removes the cgroups of this name and all below them. A cgroup stays busy for a
// moment after its last process has ended.
func removeCgroup(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		dir := filepath.Join(root, name)
		for range 300 {
			if err = removeCgroupTree(dir); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing cgroup: %w", err)
	}
	return nil
}
