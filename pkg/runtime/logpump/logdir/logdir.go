// Package logdir is EDGE: the names of a container's log files, as kubelet has them. The file in
// use has the plain name (0.log). Rotated files end in the time of their rotation
// (0.log.20060102-150405), plus .gz once compressed.
package logdir

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// stampLayout has a resolution of one second; a second rotation within one second takes the next
// free second.
const stampLayout = "20060102-150405"

// Name returns the name of the file rotated at stamp, before compression.
func Name(path string, stamp time.Time) string { return path + "." + stamp.Format(stampLayout) }

// Next returns the name for a file that is rotated now. It sorts after all existing rotated files,
// even if the clock was set back or summer time ended.
func Next(path string, now time.Time) string {
	// without a time zone, as names have none
	stamp, err := time.Parse(stampLayout, now.Format(stampLayout))
	if err != nil {
		stamp = now
	}
	if names := Rotated(path); len(names) > 0 {
		text := strings.TrimSuffix(strings.TrimPrefix(names[len(names)-1], path+"."), ".gz")
		if newest, err := time.Parse(stampLayout, text); err == nil && !stamp.After(newest) {
			stamp = newest.Add(time.Second)
		}
	}
	return Name(path, stamp)
}

// Rotated lists the rotated files of path, oldest first; none if the folder cannot be read.
func Rotated(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	prefix := filepath.Base(path) + "."
	var names []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		if _, err := time.Parse(stampLayout, strings.TrimSuffix(stamp, ".gz")); err == nil {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	sort.Strings(names)
	return names
}

// Remove deletes the log of a container: the file in use, rotated files and temporary ones.
func Remove(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	base := filepath.Base(path)
	for _, e := range entries {
		if e.Name() != base && !strings.HasPrefix(e.Name(), base+".") {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
