package hostfs

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
)

// folderMode is the mode of the folder, as in kubelet; the files in it have modes of their own.
const folderMode fs.FileMode = 0o777

// Folder is the folder of a volume whose files the agent writes.
type Folder struct {
	Path   string
	Memory bool   // on a tmpfs, so that secrets never reach a disk
	Group  *int64 // fsGroup
	// Nested are mount points for other volumes, beside the files. Containers cannot create them,
	// because they get the folder read-only.
	Nested []string
}

// Show creates the folder and makes it show exactly files; see WriteTree.
func Show(f Folder, files filetree.Files) (changed bool, err error) {
	if err := f.make(); err != nil {
		return false, err
	}
	prepare := func() error { return nil }
	if f.Group != nil {
		prepare = func() error { return SetGroup(f.Path, *f.Group, true) }
	}
	return WriteTree(f.Path, Tree{Files: files, Folders: f.Nested, Prepare: prepare})
}

// make creates the folder. A tmpfs is sticky, which is the kernel's default.
func (f Folder) make() error {
	mode := folderMode
	if f.Memory {
		mode |= fs.ModeSticky
	}
	if f.Group != nil {
		mode = GroupMode(mode|fs.ModeDir, true) &^ fs.ModeDir
	}
	if f.Memory {
		return MountTmpfs(f.Path, Tmpfs{Mode: mode, Group: f.Group})
	}
	if err := os.MkdirAll(f.Path, folderMode); err != nil {
		return fmt.Errorf("making volume folder: %w", err)
	}
	return own(f.Path, mode, f.Group)
}

// own sets mode and group of a folder, whatever the umask.
func own(path string, mode fs.FileMode, group *int64) error {
	found, err := openPath(path)
	if err != nil {
		return err
	}
	defer closing(found)
	if group != nil {
		if err := unix.Fchownat(int(found.Fd()), "", -1, int(*group), unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("giving %q to group %d: %w", path, *group, err)
		}
	}
	return chmod(found, mode)
}

// Hide removes the folder, mounted or not. It first unmounts what a pod has mounted below it and
// left there, so that nothing behind those mounts is deleted.
func Hide(path string) error {
	if err := UnmountBelow(path); err != nil {
		return err
	}
	return Remove(path)
}
