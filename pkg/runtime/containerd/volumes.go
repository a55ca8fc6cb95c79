package containerd

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/fs"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// VolumeDir is where a container has the volumes that its image declares.
func (r *Runtime) VolumeDir(containerID string) string {
	return filepath.Join(r.c.StateDir, "volumes", containerID)
}

// fillVolumes makes the folders of the image's volumes, with what the image has at their place. All
// of them appear at once: what a crash left half done is made anew, and a container that is started
// again after a failure finds its own.
func (r *Runtime) fillVolumes(ctx context.Context, l *launch) error {
	dir := r.VolumeDir(l.record.ID)
	if _, err := os.Lstat(dir); err == nil || len(l.volumes) == 0 {
		return nil
	}
	part := dir + partSuffix
	if err := os.RemoveAll(part); err != nil { // nobody but this agent has ever been in it
		return fmt.Errorf("making the image's volumes: %w", err)
	}
	if err := os.MkdirAll(part, 0o711); err != nil {
		return fmt.Errorf("making the image's volumes: %w", err)
	}
	err := r.images.mounted(ctx, l.image, func(root string) error {
		for _, v := range l.volumes {
			if filepath.Dir(v.Source) != dir {
				return fmt.Errorf("image volume %q of container %.12s: its folder must be in %q", v.Destination, l.record.ID, dir)
			}
			target := filepath.Join(part, filepath.Base(v.Source))
			if err := fillVolume(target, root, v.Destination); err != nil {
				return fmt.Errorf("copying image volume %q: %w", v.Destination, err)
			}
			if l.spec.Linux == nil {
				continue
			}
			if err := r.c.SELinux.Relabel(target, l.spec.Linux.MountLabel); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = os.Rename(part, dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making the image's volumes: %w", err), os.RemoveAll(part))
	}
	return nil
}

// partSuffix is on the folder of volumes that are not all filled yet.
const partSuffix = ".part"

// removeVolumes removes them, also what a crash left half done.
func (r *Runtime) removeVolumes(containerID string) error {
	dir := r.VolumeDir(containerID)
	if err := errors.Join(hostfs.Remove(dir), hostfs.Remove(dir+partSuffix)); err != nil {
		return fmt.Errorf("removing the image's volumes: %w", err)
	}
	return nil
}

// fillVolume copies the image's folder with owners, modes and links as they are; where the image
// has none, the volume is empty.
func fillVolume(target, root, place string) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	source, err := fs.RootPath(root, place) // links of the image lead nowhere out of it
	if err != nil {
		return err
	}
	info, err := os.Lstat(source)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("the image has no folder there but a file of mode %s", info.Mode())
	}
	return fs.CopyDir(target, source, fs.WithXAttrExclude("security.selinux"))
}
