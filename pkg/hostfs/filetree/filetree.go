// Package filetree is PURE: a set of files by relative path, which hostfs writes below one folder.
// It reads and writes no file.
package filetree

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// File is one file.
type File struct {
	Data  []byte
	Mode  fs.FileMode // permission bits
	Owner *int64      // user id; nil: root
}

// Files are files by their path relative to the folder.
type Files map[string]File

// Put adds a file. It refuses a path that leads out of the folder or that begins with "..", which
// hostfs keeps for itself.
func (f Files) Put(name string, file File) error {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || strings.HasPrefix(clean, "..") || clean == "." {
		return fmt.Errorf("path %q is not allowed in a volume: it must be relative and may not start with \"..\"", name)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return fmt.Errorf("path %q is not allowed in a volume: it has \"..\"", name)
	}
	f[clean] = file
	return nil
}
