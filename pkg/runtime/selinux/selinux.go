// Package selinux is EDGE: SELinux labels of pods, containers and their files. It reads the
// machine's policy and writes labels of files. The levels in use are kept in this process by the
// SELinux library. On a machine without SELinux it does nothing, and every label is empty.
package selinux

import (
	"errors"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Host is this machine's SELinux.
type Host struct{}

// Enabled reports whether the machine has SELinux.
func (Host) Enabled() bool { return selinux.GetEnabled() }

// Labels makes the labels for the options. Without a level they get a unique one, until Release.
func (h Host) Labels(o runtime.SELinuxOptions) (runtime.SELinuxLabels, error) {
	if !h.Enabled() {
		return runtime.SELinuxLabels{}, nil
	}
	var list []string
	for _, part := range [][2]string{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
		if part[1] != "" {
			list = append(list, part[0]+":"+part[1])
		}
	}
	process, mount, err := label.InitLabels(list)
	if err != nil {
		return runtime.SELinuxLabels{}, fmt.Errorf("making the SELinux labels of %v: %w", list, err)
	}
	return runtime.SELinuxLabels{Process: process, Mount: mount}, nil
}

// Of makes the labels of a container in a pod with the labels pod. Options that name no level take
// the pod's, so that the containers of a pod share its level and can use its volumes.
func (h Host) Of(o runtime.SELinuxOptions, pod runtime.SELinuxLabels) (runtime.SELinuxLabels, error) {
	if o.Level == "" && pod.Process != "" {
		c, err := selinux.NewContext(pod.Process)
		if err != nil {
			return runtime.SELinuxLabels{}, fmt.Errorf("reading the SELinux label of the pod: %w", err)
		}
		o.Level = c["level"]
	}
	return h.Labels(o)
}

// Reserve takes the level of labels that an earlier agent made.
func (Host) Reserve(l runtime.SELinuxLabels) {
	if l.Process != "" {
		selinux.ReserveLabel(l.Process)
	}
}

// Release frees the level.
func (Host) Release(l runtime.SELinuxLabels) {
	if l.Process != "" {
		selinux.ReleaseLabel(l.Process)
	}
}

// Relabel sets the label of a file, or of a folder and everything below it, without following
// links. File systems without labels are left as they are.
func (h Host) Relabel(path, mount string) error {
	if mount == "" || !h.Enabled() {
		return nil
	}
	if err := label.Relabel(path, mount, false); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("giving %q the SELinux label %q: %w", path, mount, err)
	}
	return nil
}
