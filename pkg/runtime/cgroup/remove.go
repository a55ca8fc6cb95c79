package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
)

// Exists reports whether any hierarchy has kubepods.
func (t *Tree) Exists() bool { return t.PerQOS && t.there(t.Kubepods()) }

// Remove removes the QoS levels and kubepods if they hold no pod and no other agent uses them, and
// reports whether it did.
func (t *Tree) Remove() (removed bool, err error) {
	if !t.PerQOS {
		return false, nil
	}
	left, err := t.find("")
	if err != nil {
		return false, err
	}
	t.release(t.Kubepods())
	if len(left) > 0 || t.shared() {
		return false, nil
	}
	names := []Name{t.Level(corev1.PodQOSBurstable), t.Level(corev1.PodQOSBestEffort), t.Kubepods()}
	for _, name := range names {
		for _, mount := range t.mounts {
			dir := filepath.Join(mount, t.Dir(name))
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			removed = true
			if err := cgroups.RemovePath(dir); err != nil {
				return removed, fmt.Errorf("removing cgroup %q: %w", dir, err)
			}
		}
		if t.Systemd && removed {
			if err := t.stopSlice(filepath.Base(t.Dir(name))); err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}
