package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// hybridMount is where systemd mounts a v2 hierarchy without controllers on a machine with v1.
const hybridMount = "/sys/fs/cgroup/unified"

// Config configures a Tree.
type Config struct {
	Layout  Layout
	Enforce Enforce
	// Owner identifies this agent among agents on the machine, by its root folder; "" leaves groups
	// unmarked.
	Owner string
	Log   *slog.Logger
}

// Tree writes control groups with the library that kubelet uses. It is safe for concurrent use.
type Tree struct {
	Layout
	config Config
	mounts []string // all hierarchies that hold pods' groups
	v2     bool

	mu     sync.Mutex // guards levels
	levels map[corev1.PodQOSClass]uint64
}

// New finds the mounted hierarchies.
func New(c Config) (*Tree, error) {
	if c.Log == nil {
		return nil, errors.New("making the cgroup tree: Log is required")
	}
	t := &Tree{Layout: c.Layout, config: c, v2: cgroups.IsCgroup2UnifiedMode(), levels: map[corev1.PodQOSClass]uint64{}}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return nil, fmt.Errorf("finding the mounted cgroup hierarchies: %w", err)
	}
	for _, m := range mounts {
		if !slices.Contains(t.mounts, m.Mountpoint) {
			t.mounts = append(t.mounts, m.Mountpoint)
		}
	}
	// the list leaves out a v2 hierarchy beside those of v1
	if cgroups.IsCgroup2HybridMode() {
		t.mounts = append(t.mounts, hybridMount)
	}
	if len(t.mounts) == 0 {
		return nil, errors.New("finding the mounted cgroup hierarchies: none is mounted at /sys/fs/cgroup")
	}
	return t, nil
}

// V2 reports whether the machine has only cgroup v2.
func (t *Tree) V2() bool { return t.v2 }

// Ensure creates kubepods with the node's limits, and the QoS levels. Existing levels keep their
// shares until SetLevels.
func (t *Tree) Ensure(_ context.Context, node Limits) error {
	if !t.PerQOS {
		return nil
	}
	if err := t.write(t.Kubepods(), node); err != nil {
		return err
	}
	t.claim(t.Kubepods())
	for _, class := range levels() {
		if err := t.write(t.Level(class), Limits{}); err != nil {
			return err
		}
	}
	return nil
}

// SetNode makes kubepods and its levels, limited to what the node's pods may request together.
func (t *Tree) SetNode(ctx context.Context, allocatable corev1.ResourceList) error {
	return t.Ensure(ctx, NodeLimits(allocatable))
}

// levels lists the QoS classes that have a level.
func levels() []corev1.PodQOSClass {
	return []corev1.PodQOSClass{corev1.PodQOSBurstable, corev1.PodQOSBestEffort}
}

// SetLevels sets the shares of each QoS level to what its pods request. It writes only what
// differs.
func (t *Tree) SetLevels(pods []*corev1.Pod) error {
	if !t.PerQOS {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, class := range levels() {
		shares := LevelShares(class, pods)
		if t.levels[class] == shares {
			continue
		}
		if err := t.write(t.Level(class), Limits{Shares: shares}); err != nil {
			return err
		}
		t.levels[class] = shares
	}
	return nil
}

// EnsurePod creates the pod's group with its limits, or changes the limits of an existing one.
func (t *Tree) EnsurePod(_ context.Context, pod *corev1.Pod) error {
	if !t.PerQOS {
		return nil
	}
	if err := t.write(t.Pod(pod), PodLimits(pod, t.config.Enforce)); err != nil {
		return err
	}
	t.claim(t.Pod(pod))
	return nil
}

// write creates the group and its missing ancestors: systemd creates no slice inside of one that it
// does not know.
func (t *Tree) write(n Name, l Limits) error {
	if above := n[:len(n)-1]; t.Systemd && len(above) > 0 && !t.there(above) {
		if err := t.write(above, Limits{}); err != nil {
			return err
		}
	}
	r := resources(l)
	m, err := t.manager(n, r)
	if err != nil {
		return fmt.Errorf("making cgroup %q: %w", t.Dir(n), err)
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("making cgroup %q: %w", t.Dir(n), err)
	}
	dir := m.Path("hugetlb")
	if t.v2 {
		dir = m.Path("")
	}
	r.HugetlbLimit = hugePages(dir, cgroups.HugePageSizes(), l.HugePages)
	if err := m.Set(r); err != nil {
		return fmt.Errorf("limiting cgroup %q to %s: %w", t.Dir(n), l, err)
	}
	return nil
}

// there reports whether the group exists in any hierarchy.
func (t *Tree) there(n Name) bool {
	return slices.ContainsFunc(t.mounts, func(mount string) bool {
		_, err := os.Stat(filepath.Join(mount, t.Dir(n)))
		return err == nil
	})
}

func (t *Tree) manager(n Name, r *cgroups.Resources) (cgroups.Manager, error) {
	c := &cgroups.Cgroup{Resources: r, Systemd: t.Systemd}
	if t.Systemd {
		c.Name, c.Parent = n.Slice(), n[:len(n)-1].Slice()
	} else {
		c.Path = n.Path()
	}
	return manager.New(c)
}

func resources(l Limits) *cgroups.Resources {
	r := &cgroups.Resources{
		SkipDevices:     true, // device rules belong to the containers
		SkipFreezeOnSet: true,
		CpuShares:       l.Shares,
		CpuQuota:        l.Quota,
		CpuPeriod:       uint64(l.Period),
		Memory:          l.Memory,
	}
	if cgroups.IsCgroup2UnifiedMode() {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(l.Shares)
	}
	if l.Pids > 0 {
		r.PidsLimit = &l.Pids
	}
	return r
}

// hugePages returns the limits of the group at dir for the machine's page sizes. A size without a
// file cannot be limited: the controller is missing or not delegated to this group.
func hugePages(dir string, sizes []string, wanted map[string]int64) []*cgroups.HugepageLimit {
	if dir == "" || wanted == nil {
		return nil
	}
	bytes := map[string]int64{}
	for size, n := range wanted {
		bytes[qos.KernelPageSize(size)] = n
	}
	var list []*cgroups.HugepageLimit
	for _, size := range sizes {
		for _, file := range []string{"max", "limit_in_bytes"} { // of v2 and v1
			if _, err := os.Stat(filepath.Join(dir, "hugetlb."+size+"."+file)); err == nil {
				list = append(list, &cgroups.HugepageLimit{Pagesize: size, Limit: uint64(max(bytes[size], 0))})
			}
		}
	}
	return list
}

// Pods returns the UIDs of all pods that have a group in any hierarchy, sorted.
func (t *Tree) Pods() ([]types.UID, error) {
	found, err := t.find("")
	if err != nil {
		return nil, err
	}
	uids := make([]types.UID, 0, len(found))
	for _, dir := range found {
		uids = append(uids, t.UID(filepath.Base(dir)))
	}
	slices.Sort(uids)
	return slices.Compact(uids), nil
}

// find lists the folders of one pod's groups in all hierarchies, or of all pods with "".
func (t *Tree) find(uid types.UID) ([]string, error) {
	if !t.PerQOS {
		return nil, nil
	}
	var dirs []string
	for _, mount := range t.mounts {
		for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
			level := filepath.Join(mount, t.Dir(t.Level(class)))
			entries, err := os.ReadDir(level)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("listing cgroups of pods: %w", err)
			}
			for _, e := range entries {
				if have := t.UID(e.Name()); e.IsDir() && have != "" && (uid == "" || have == uid) {
					dirs = append(dirs, filepath.Join(level, e.Name()))
				}
			}
		}
	}
	return dirs, nil
}

// RemovePod removes the pod's group in every hierarchy, whatever its QoS class was. It kills
// processes that still run in it: by now no container of the pod exists.
func (t *Tree) RemovePod(_ context.Context, uid types.UID) error {
	dirs, err := t.find(uid)
	if err != nil {
		return err
	}
	var all error
	for _, dir := range dirs {
		if err := t.killIn(uid, dir); err != nil {
			all = errors.Join(all, err)
			continue
		}
		if err := cgroups.RemovePath(dir); err != nil {
			all = errors.Join(all, fmt.Errorf("removing cgroup of pod %q: %w", uid, err))
		}
	}
	if all == nil && t.Systemd && len(dirs) > 0 {
		all = t.stopSlice(filepath.Base(dirs[0]))
	}
	return all
}

func (t *Tree) killIn(uid types.UID, dir string) error {
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing processes of pod %q: %w", uid, err)
	}
	for _, pid := range pids {
		t.config.Log.Warn("Killing a process that outlived its pod", "uid", uid, "pid", pid, "cgroup", dir)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("killing process %d of pod %q: %w", pid, uid, err)
		}
	}
	return nil
}

// stopSlice makes systemd forget the unit.
func (t *Tree) stopSlice(unit string) error {
	parts := strings.Split(strings.TrimSuffix(unit, ".slice"), "-")
	m, err := t.manager(Name(parts), &cgroups.Resources{SkipDevices: true})
	if err != nil {
		return fmt.Errorf("stopping slice %q: %w", unit, err)
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("stopping slice %q: %w", unit, err)
	}
	return nil
}
