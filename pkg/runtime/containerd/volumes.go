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

// VolumeDir is the folder of the volumes that the container's image declares.
func (r *Runtime) VolumeDir(containerID string) string {
	return filepath.Join(r.c.StateDir, "volumes", containerID)
}

// fillVolumes creates the image's volumes, filled with the image's content. They appear all at
// once, by a rename: an interrupted copy is redone, and a container that is started again keeps its
// volumes.
func (r *Runtime) fillVolumes(ctx context.Context, l *launch) error {
	dir := r.VolumeDir(l.record.ID)
	if _, err := os.Lstat(dir); err == nil || len(l.volumes) == 0 {
		return nil
	}
	part := dir + partSuffix
	if err := os.RemoveAll(part); err != nil { // no container has had access to it
		return fmt.Errorf("making the image's volumes: %w", err)
	}
	if err := os.MkdirAll(part, 0o711); err != nil {
		return fmt.Errorf("making the image's volumes: %w", err)
	}
	err := r.images.mounted(ctx, l.image, func(root string) error {
		for _, v := range l.volumes {
			if filepath.Dir(v.Source) != dir {
				return fmt.Errorf("image volume %q of container %.12s: its folder is not in %q", v.Destination, l.record.ID, dir)
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

// partSuffix marks a folder whose volumes are not complete yet.
const partSuffix = ".part"

// removeVolumes removes the volumes, complete or not.
func (r *Runtime) removeVolumes(containerID string) error {
	dir := r.VolumeDir(containerID)
	if err := errors.Join(hostfs.Remove(dir), hostfs.Remove(dir+partSuffix)); err != nil {
		return fmt.Errorf("removing the image's volumes: %w", err)
	}
	return nil
}

// fillVolume copies the image's folder with owners, modes and links; without one the volume is
// empty.
func fillVolume(target, root, place string) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	source, err := fs.RootPath(root, place) // links of the image do not lead out of it
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
		return fmt.Errorf("the image has a file of mode %s there, not a folder", info.Mode())
	}
	return fs.CopyDir(target, source, fs.WithXAttrExclude("security.selinux"))
}
