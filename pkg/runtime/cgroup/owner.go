package cgroup

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerMark is the prefix of the extended attribute by which an agent marks the groups that it
// uses. Two agents on one machine may share kubepods, and neither may remove what the other uses.
const ownerMark = "trusted.nodeagent.owner."

func (t *Tree) mark() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.config.Owner))
	return fmt.Sprintf("%s%x", ownerMark, h.Sum64())
}

// claim marks a group in every hierarchy. A kernel without such attributes leaves the group
// unmarked, that is, unowned.
func (t *Tree) claim(n Name) {
	if t.config.Owner == "" {
		return
	}
	for _, mount := range t.mounts {
		if err := unix.Setxattr(filepath.Join(mount, t.Dir(n)), t.mark(), []byte(t.config.Owner), 0); err != nil && !os.IsNotExist(err) {
			t.config.Log.Debug("Cgroup cannot be marked as this agent's", "cgroup", t.Dir(n), "err", err)
		}
	}
}

// release removes this agent's mark from a group.
func (t *Tree) release(n Name) {
	for _, mount := range t.mounts {
		// no error handling: without the attribute there is nothing to remove
		_ = unix.Removexattr(filepath.Join(mount, t.Dir(n)), t.mark())
	}
}

// Others reports whether only another agent has marked the pod's group.
func (t *Tree) Others(uid types.UID) (bool, error) {
	dirs, err := t.find(uid)
	if err != nil {
		return false, err
	}
	for _, dir := range dirs {
		if own, other := t.owners(dir); other && !own {
			return true, nil
		}
	}
	return false, nil
}

// shared reports whether another agent uses kubepods or a QoS level.
func (t *Tree) shared() bool {
	for _, n := range []Name{t.Kubepods(), t.Level(corev1.PodQOSBurstable), t.Level(corev1.PodQOSBestEffort)} {
		for _, mount := range t.mounts {
			if _, other := t.owners(filepath.Join(mount, t.Dir(n))); other {
				return true
			}
		}
	}
	return false
}

// owners reports whether this agent, and whether another one, has marked a folder.
func (t *Tree) owners(dir string) (own, other bool) {
	names := make([]byte, 4096)
	n, err := unix.Listxattr(dir, names)
	if err != nil {
		return false, false
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		switch {
		case name == t.mark():
			own = true
		case strings.HasPrefix(name, ownerMark):
			other = true
		}
	}
	return own, other
}
