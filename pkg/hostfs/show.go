package hostfs

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
)

// folderMode is that of the folder of every API volume, as kubelet has it: the files in it have
// modes of their own.
const folderMode fs.FileMode = 0o777

// Folder says how the folder of an API volume is kept.
type Folder struct {
	Path   string
	Memory bool   // on a tmpfs, so that secrets never reach a disk
	Group  *int64 // fsGroup
	// Nested are folders that are to be there beside the files, for other volumes to be mounted on:
	// containers may not make them, as they get the folder read-only.
	Nested []string
}

// Show makes the folder and lets it show exactly files; see WriteTree.
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

// make makes the folder. A tmpfs is sticky, as the kernel makes it when nobody says otherwise.
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

// own gives a folder of the node's own its mode and group, past the mask.
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

// Hide takes the folder away, mounted or not. What a pod mounted below it and left there is taken
// off first, so that nothing behind those mounts is deleted.
func Hide(path string) error {
	if err := UnmountBelow(path); err != nil {
		return err
	}
	return Remove(path)
}
