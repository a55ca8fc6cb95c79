// Package logdir is EDGE: how the files of one container's log are named, kubelet's way. The file
// in use has the plain name (0.log); rotated ones end in the time of their rotation
// (0.log.20060102-150405), and in .gz once compressed.
package logdir

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// stampLayout is of a second's resolution; whoever rotates twice in a second takes the next free
// second.
const stampLayout = "20060102-150405"

// Name is that of the file rotated at stamp, before compression.
func Name(path string, stamp time.Time) string { return path + "." + stamp.Format(stampLayout) }

// Next is the name of the file that is rotated now: in order it comes after every rotated file that
// there is, also when the clock was set back, by somebody or by the end of summer time.
func Next(path string, now time.Time) string {
	// as a name is read: without a zone
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

// Rotated lists the rotated files of path, oldest first; a folder that cannot be read has none.
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

// Remove deletes the log of a container: the file in use, the rotated ones and half-made ones.
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
