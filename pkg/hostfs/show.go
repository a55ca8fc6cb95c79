package hostfs

import (
	"fmt"
	"os"

	"github.com/nodeagent/nodeagent/pkg/volume/payload"
)

// Folder says how the folder of an API volume is kept.
type Folder struct {
	Path   string
	Memory bool   // on a tmpfs, so that secrets never reach a disk
	Group  *int64 // fsGroup
}

// Show makes the folder and lets it show exactly files; see WriteTree.
func Show(f Folder, files payload.Files) (changed bool, err error) {
	if f.Memory {
		err = MountTmpfs(f.Path, 0, 0o755)
	} else if err = os.MkdirAll(f.Path, 0o755); err != nil {
		err = fmt.Errorf("making volume folder: %w", err)
	}
	if err != nil {
		return false, err
	}
	if err := chmod(f.Path, 0o755); err != nil {
		return false, err
	}
	var prepare func(string) error
	if f.Group != nil {
		prepare = func(version string) error { return SetGroup(version, *f.Group, true) }
	}
	return WriteTree(f.Path, files, prepare)
}

// Hide takes the folder away, mounted or not. What a pod mounted below it and left there is taken off first, so that nothing
// behind those mounts is deleted.
func Hide(path string) error {
	if err := UnmountBelow(path); err != nil {
		return err
	}
	return Remove(path)
}
