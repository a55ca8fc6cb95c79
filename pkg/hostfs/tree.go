package hostfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/volume/payload"
)

// The folder of a tree looks so; what programs open are the links, and one rename of ..data changes all of them at once:
//
//	..v123456/app.conf    the newest contents
//	..data -> ..v123456
//	app.conf -> ..data/app.conf
const (
	dataLink      = "..data"
	dataLinkNew   = "..data_tmp"
	versionPrefix = "..v"
)

// WriteTree makes dir show exactly files, all at once for whoever reads it, and says whether it showed something else before.
// prepare, if not nil, is run on the new contents before they can be seen. What an interrupted run left is swept.
func WriteTree(dir string, files map[string]payload.File, prepare func(version string) error) (changed bool, err error) {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading %q: %w", dir, err)
	}
	if current != "" && same(filepath.Join(dir, current), files) {
		return false, errors.Join(link(dir, files), sweep(dir, current))
	}
	version, err := newVersion(dir, files)
	if err != nil {
		return false, err
	}
	if prepare != nil {
		if err := prepare(version); err != nil {
			return false, err
		}
	}
	if err := swap(dir, filepath.Base(version)); err != nil {
		return false, err
	}
	return true, errors.Join(link(dir, files), sweep(dir, filepath.Base(version)))
}

// same compares names and contents, not modes: those are set at the first writing and may since have been widened by fsGroup.
func same(version string, files map[string]payload.File) bool {
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
		have, err := os.ReadFile(path)
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

func newVersion(dir string, files map[string]payload.File) (string, error) {
	version, err := os.MkdirTemp(dir, versionPrefix)
	if err != nil {
		return "", fmt.Errorf("making a folder for new contents: %w", err)
	}
	if err := chmod(version, 0o755); err != nil {
		return "", err
	}
	for name, f := range files {
		if err := writeFile(version, name, f); err != nil {
			return "", err
		}
	}
	return version, nil
}

func writeFile(version, name string, f payload.File) error {
	path := filepath.Join(version, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making the folder of %q: %w", name, err)
	}
	if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	if f.Owner != nil {
		if err := os.Chown(path, int(*f.Owner), -1); err != nil {
			return fmt.Errorf("giving %q to user %d: %w", name, *f.Owner, err)
		}
	}
	return chmod(path, f.Mode) // the mask took bits from WriteFile's
}

func swap(dir, version string) error {
	fresh := filepath.Join(dir, dataLinkNew)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweeping %q: %w", fresh, err)
	}
	if err := os.Symlink(version, fresh); err != nil {
		return fmt.Errorf("linking new contents: %w", err)
	}
	if err := os.Rename(fresh, filepath.Join(dir, dataLink)); err != nil {
		return fmt.Errorf("showing new contents: %w", err)
	}
	return nil
}

// link makes a link for each top-level name, and takes away those whose name is gone.
func link(dir string, files map[string]payload.File) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	var all error
	for top := range want {
		path, to := filepath.Join(dir, top), filepath.Join(dataLink, top)
		if have, err := os.Readlink(path); err == nil && have == to {
			continue
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

// sweep removes every version but the one that is shown.
func sweep(dir, shown string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing %q: %w", dir, err)
	}
	var all error
	for _, e := range entries {
		if e.Name() != shown && strings.HasPrefix(e.Name(), versionPrefix) {
			all = errors.Join(all, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return all
}
