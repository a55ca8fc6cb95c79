// Package hostpath is EDGE: files and folders of the host in pods. It checks their type and creates
// missing ones if the volume says so; it never removes anything.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
)

// Plugin is a volume.Plugin and volume.Pather; its zero value is ready.
type Plugin struct{}

// Name is the kind's name.
func (Plugin) Name() string { return "kubernetes.io/host-path" }

// Handles reports whether the volume is a hostPath.
func (Plugin) Handles(v *corev1.Volume) bool { return v.HostPath != nil }

// Path is the path on the host.
func (Plugin) Path(v *corev1.Volume) string { return v.HostPath.Path }

// Unmount does nothing: the path is not the pod's.
func (Plugin) Unmount(context.Context, string) error { return nil }

// Mount checks the type of the path, and creates a missing one if the type allows: a folder when
// none is given.
func (Plugin) Mount(_ context.Context, r volume.Request) (bool, error) {
	path, kind := r.Volume.HostPath.Path, corev1.HostPathUnset
	if r.Volume.HostPath.Type != nil {
		kind = *r.Volume.HostPath.Type
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, kind)
	}
	if err != nil {
		return false, fmt.Errorf("hostPath type check failed: %w", err)
	}
	return false, check(path, kind, info.Mode())
}

func create(path string, kind corev1.HostPathType) (bool, error) {
	switch kind {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return false, fmt.Errorf("making hostPath: %w", err)
		}
		return true, nil
	case corev1.HostPathFileOrCreate:
		// Another pod may put a link or FIFO there meanwhile: the open fails, and the next Mount
		// checks its type.
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NONBLOCK, 0o644)
		if err != nil {
			return false, fmt.Errorf("making hostPath: %w", err)
		}
		return true, file.Close()
	default:
		return false, fmt.Errorf("hostPath type check failed: %s is not %s: it does not exist", path, describe(kind))
	}
}

func check(path string, kind corev1.HostPathType, mode fs.FileMode) error {
	var ok bool
	switch kind {
	case corev1.HostPathUnset:
		ok = true
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default:
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not %s", path, describe(kind))
	}
	return nil
}

func describe(kind corev1.HostPathType) string {
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "a directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "a file"
	case corev1.HostPathSocket:
		return "a socket file"
	case corev1.HostPathCharDev:
		return "a character device"
	case corev1.HostPathBlockDev:
		return "a block device"
	default:
		return string(kind)
	}
}
