// Package selinux is EDGE: the SELinux labels of pods, containers and their files. It reads the
// machine's policy and writes labels of files; the levels that are taken by pods are kept by the
// library in this process. On a machine without SELinux it does nothing, and every label is empty.
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

// Enabled says whether the machine has SELinux.
func (Host) Enabled() bool { return selinux.GetEnabled() }

// Labels makes the labels that the options ask for. Without a level they get one that nobody else
// has, until Release.
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

// Of makes the labels of a container that has options of its own, in a pod with labels of its own:
// what the options leave out, it has of its pod. So containers of a pod share its level, and with
// it the pod's volumes.
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

// Reserve keeps the level of labels that an agent before this one made.
func (Host) Reserve(l runtime.SELinuxLabels) {
	if l.Process != "" {
		selinux.ReserveLabel(l.Process)
	}
}

// Release gives the level back.
func (Host) Release(l runtime.SELinuxLabels) {
	if l.Process != "" {
		selinux.ReleaseLabel(l.Process)
	}
}

// Relabel gives the label to a file, or to a folder and everything below it, following no links.
// File systems that know no labels are left as they are.
func (h Host) Relabel(path, mount string) error {
	if mount == "" || !h.Enabled() {
		return nil
	}
	if err := label.Relabel(path, mount, false); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("giving %q the SELinux label %q: %w", path, mount, err)
	}
	return nil
}
