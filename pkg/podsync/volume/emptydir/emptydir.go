// Package emptydir is EDGE: scratch folders of pods, on disk, in memory (tmpfs) or in huge pages
// (hugetlbfs). It creates the volume's folder, and does not touch it again before it removes it:
// the contents are the pod's.
package emptydir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// mode lets everybody write to the folder, since containers run as users of any id.
const mode fs.FileMode = 0o777

// hugeMode is the kernel's default mode of a hugetlbfs.
const hugeMode fs.FileMode = 0o755

// unfinished is the suffix of a folder that is not complete yet; no name of a volume has a "~".
const unfinished = "~new"

// Plugin is a volume.Plugin; its zero value is ready.
type Plugin struct{}

// Name is the kind's name.
func (Plugin) Name() string { return "kubernetes.io/empty-dir" }

// Handles reports whether the volume is an emptyDir.
func (Plugin) Handles(v *corev1.Volume) bool { return v.EmptyDir != nil }

// Mount creates the folder unless it exists.
func (Plugin) Mount(_ context.Context, r volume.Request) (bool, error) {
	switch medium := r.Volume.EmptyDir.Medium; {
	case medium == corev1.StorageMediumDefault:
		return onDisk(r)
	case medium == corev1.StorageMediumMemory:
		// Sticky, as with kubelet: it is the kernel's default for a tmpfs.
		t := hostfs.Tmpfs{Size: size(r), Mode: grouped(mode|fs.ModeSticky, r.FSGroup), Group: r.FSGroup}
		return mounted(r, func() error { return hostfs.MountTmpfs(r.Target, t) })
	case strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)):
		return mounted(r, func() error { return mountHugePages(r) })
	default:
		return false, fmt.Errorf("unknown storage medium %q: it may be empty, Memory or HugePages", medium)
	}
}

// Unmount removes the folder with its contents.
func (Plugin) Unmount(_ context.Context, target string) error {
	return errors.Join(hostfs.Hide(target), hostfs.Remove(target+unfinished))
}

// onDisk creates the folder under another name and renames it, so that a folder at the target is
// complete.
func onDisk(r volume.Request) (bool, error) {
	if _, err := os.Lstat(r.Target); err == nil {
		return false, nil
	}
	fresh := r.Target + unfinished
	if err := hostfs.Remove(fresh); err != nil {
		return false, err
	}
	if err := os.MkdirAll(fresh, mode); err != nil {
		return false, fmt.Errorf("making folder: %w", err)
	}
	if err := open(fresh, r.FSGroup); err != nil {
		return false, err
	}
	if err := os.Rename(fresh, r.Target); err != nil {
		return false, fmt.Errorf("renaming folder: %w", err)
	}
	return true, nil
}

// mounted mounts the volume unless it is mounted. Mode and group are mount options, so that a
// mounted volume is complete.
func mounted(r volume.Request, mount func() error) (bool, error) {
	is, err := hostfs.Mounted(r.Target)
	if err != nil || is {
		return false, err
	}
	return true, mount()
}

// grouped is the mode of a folder to which fsGroup may write.
func grouped(mode fs.FileMode, group *int64) fs.FileMode {
	if group == nil {
		return mode
	}
	return hostfs.GroupMode(mode|fs.ModeDir, false) &^ fs.ModeDir
}

// open sets the mode whatever the umask, and gives the folder to fsGroup.
func open(path string, group *int64) error {
	if err := hostfs.Chmod(path, mode); err != nil {
		return err
	}
	if group == nil {
		return nil
	}
	return hostfs.SetGroup(path, *group, false)
}

// size is the size of a tmpfs in bytes: the least of sizeLimit, the pod's memory limit and the
// node's allocatable memory; 0 if none is known.
func size(r volume.Request) int64 {
	least := r.Allocatable.Memory().Value()
	if limit := qos.Total(r.Pod).Memory; limit > 0 && (least == 0 || limit < least) {
		least = limit
	}
	if q := r.Volume.EmptyDir.SizeLimit; q != nil && q.Value() > 0 && (least == 0 || q.Value() < least) {
		least = q.Value()
	}
	return least
}

// mountHugePages mounts a hugetlbfs. The medium names the page size ("HugePages-2Mi"), or is
// "HugePages" for the only size that the pod requests.
func mountHugePages(r volume.Request) error {
	page, ok := strings.CutPrefix(string(r.Volume.EmptyDir.Medium), string(corev1.StorageMediumHugePagesPrefix))
	requested := qos.Total(r.Pod).HugePages
	if !ok {
		if len(requested) != 1 {
			return fmt.Errorf("medium HugePages needs a pod that requests exactly one page size, and this one requests %d: name the size, as in HugePages-2Mi",
				len(requested))
		}
		for only := range requested {
			page = only
		}
	}
	q, err := resource.ParseQuantity(page)
	if err != nil {
		return fmt.Errorf("parsing page size %q: %w", page, err)
	}
	if err := os.MkdirAll(r.Target, mode); err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	huge := grouped(hugeMode, r.FSGroup)
	options := fmt.Sprintf("pagesize=%d,%s", q.Value(), hostfs.MountMode(huge, r.FSGroup))
	if err := unix.Mount("nodev", r.Target, "hugetlbfs", 0, options); err != nil {
		return fmt.Errorf("mounting hugetlbfs (%s) at %q: %w", options, r.Target, err)
	}
	return hostfs.Chmod(r.Target, huge) // hugetlbfs has no option for setgid
}
