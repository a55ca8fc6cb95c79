package hostfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
)

// The layout of a tree. Programs open the links, and one rename of ..data changes all of them at
// once:
//
//	..v123456/app.conf    the newest contents
//	..data -> ..v123456
//	app.conf -> ..data/app.conf
const (
	dataLink      = "..data"
	dataLinkNew   = "..data_tmp"
	versionPrefix = "..v"
)

// Tree is what a folder shows.
type Tree struct {
	Files filetree.Files
	// Folders are created beside the files, also below folders with files.
	Folders []string
	// Prepare, if not nil, runs when new contents are complete, before they become visible.
	Prepare func() error
}

// WriteTree makes dir show exactly the tree, atomically for its readers, and reports whether it
// showed other files before. It removes what an interrupted run left behind. Other folders in dir
// stay, because something may be mounted on them.
func WriteTree(dir string, t Tree) (changed bool, err error) {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading %q: %w", dir, err)
	}
	if current != "" && same(filepath.Join(dir, current), t.Files) {
		return false, errors.Join(t.show(dir, current), sweep(dir, current))
	}
	version, err := newVersion(dir, t.Files)
	if err != nil {
		return false, err
	}
	err = t.within(version)
	if err == nil && current == "" { // no reader yet could see them before the files
		err = t.beside(dir)
	}
	if err == nil && t.Prepare != nil {
		err = t.Prepare()
	}
	if err == nil {
		err = swap(dir, filepath.Base(version))
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(t.show(dir, filepath.Base(version)), sweep(dir, filepath.Base(version)))
}

// show creates missing links to the version, and missing folders.
func (t Tree) show(dir, version string) error {
	return errors.Join(link(dir, t.Files), t.within(filepath.Join(dir, version)), t.beside(dir))
}

// within creates the folders below a top-level folder with files, which is a link to the version.
func (t Tree) within(version string) error { return t.folders(version, true) }

// beside creates the other folders.
func (t Tree) beside(dir string) error { return t.folders(dir, false) }

func (t Tree) folders(root string, withFiles bool) error {
	tops := tops(t.Files)
	for _, folder := range t.Folders {
		if top, _, _ := strings.Cut(folder, "/"); tops[top] != withFiles {
			continue
		}
		if err := makeFolders(root, folder); err != nil {
			return fmt.Errorf("making a folder to mount on: %w", err)
		}
	}
	return nil
}

// makeFolders creates the missing folders of sub, readable by all whatever the umask.
func makeFolders(root, sub string) error {
	base, err := openPath(root)
	if err != nil {
		return err
	}
	defer closing(base)
	made, err := makeBeneath(base, sub, 0o755)
	if err == nil {
		closing(made)
	}
	return err
}

func tops(files filetree.Files) map[string]bool {
	found := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		found[top] = true
	}
	return found
}

// same compares names and contents with files. It ignores modes, which fsGroup may have widened
// since the files were written, and reads no more of a file than its expected length.
func same(version string, files filetree.Files) bool {
	found := 0
	err := filepath.WalkDir(version, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(version, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		if !ok {
			return fs.ErrExist
		}
		have, err := Read(path, int64(len(want.Data)))
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.Data) {
			return fs.ErrExist
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

func newVersion(dir string, files filetree.Files) (string, error) {
	version, err := os.MkdirTemp(dir, versionPrefix)
	if err != nil {
		return "", fmt.Errorf("making a folder for new contents: %w", err)
	}
	if err := own(version, 0o755, nil); err != nil {
		return "", err
	}
	for name, f := range files {
		if err := writeFile(version, name, f); err != nil {
			return "", err
		}
	}
	return version, nil
}

func writeFile(version, name string, f filetree.File) error {
	path := filepath.Join(version, name)
	if err := makeFolders(version, filepath.Dir(name)); err != nil {
		return fmt.Errorf("making the folder of %q: %w", name, err)
	}
	if err := replace(path, f.Data, f.Mode); err != nil {
		return err
	}
	if f.Owner != nil {
		if err := os.Lchown(path, int(*f.Owner), -1); err != nil {
			return fmt.Errorf("giving %q to user %d: %w", name, *f.Owner, err)
		}
	}
	return nil
}

func swap(dir, version string) error {
	fresh := filepath.Join(dir, dataLinkNew)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %q: %w", fresh, err)
	}
	if err := os.Symlink(version, fresh); err != nil {
		return fmt.Errorf("linking new contents: %w", err)
	}
	if err := os.Rename(fresh, filepath.Join(dir, dataLink)); err != nil {
		return fmt.Errorf("switching to new contents: %w", err)
	}
	return nil
}

// link creates a link for each top-level name, and removes links of other names.
func link(dir string, files filetree.Files) error {
	want := tops(files)
	var all error
	for top := range want {
		path, to := filepath.Join(dir, top), filepath.Join(dataLink, top)
		if have, err := os.Readlink(path); err == nil && have == to {
			continue
		}
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			continue // another volume is mounted in it: that takes precedence over a newer file
		}
		if err := os.Symlink(to, path); err != nil {
			all = errors.Join(all, fmt.Errorf("linking %q: %w", top, err))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.Join(all, fmt.Errorf("listing %q: %w", dir, err))
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") || want[e.Name()] || e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			all = errors.Join(all, fmt.Errorf("unlinking %q: %w", e.Name(), err))
		}
	}
	return all
}

// sweep removes every version but the shown one.
func sweep(dir, shown string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing %q: %w", dir, err)
	}
	var all error
	for _, e := range entries {
		if e.Name() != shown && strings.HasPrefix(e.Name(), versionPrefix) {
			all = errors.Join(all, Remove(filepath.Join(dir, e.Name())))
		}
	}
	return all
}
