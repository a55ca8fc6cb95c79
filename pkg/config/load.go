package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile is the largest configuration file, in bytes: more than any configuration needs.
const maxFile = 1 << 20

// Load reads the files and folders of --config and the flags, and the machine's name. It returns
// the configuration, defaulted and validated, and notes on settings that are not used as they are.
// The error is an Errors, or that of reading a file.
func Load(f *Flags) (Config, []Note, error) {
	sources, err := Read(f.paths)
	if err != nil {
		return Config{}, nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		return Config{}, nil, fmt.Errorf("reading the host name: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return Config{}, nil, fmt.Errorf("finding the path of this program: %w", err)
	}
	return Resolve(sources, f, Host{Hostname: name, Executable: self})
}

// Resolve is Load for texts that have been read.
func Resolve(sources []Source, f *Flags, h Host) (Config, []Note, error) {
	d := parse(sources)
	f.apply(d)
	undecoded := d.errs
	d.errs = nil
	c := d.resolve(h)
	// there is an error for this place already: a field that did not decode has only its default
	for _, e := range undecoded {
		d.errs = slices.DeleteFunc(d.errs, func(other FieldError) bool { return other.Where == e.Where })
	}
	if d.errs = append(undecoded, d.errs...); len(d.errs) > 0 {
		return Config{}, sortNotes(d.notes), d.errs.byPlace()
	}
	return c, sortNotes(d.notes), nil
}

// Read returns the text of each file, and of each *.yaml, *.yml, *.json and *.conf in each folder
// in lexical order.
func Read(paths []string) ([]Source, error) {
	var sources []Source
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, unreadable(p, err)
		}
		files := []string{p}
		if info.IsDir() {
			if files, err = inFolder(p); err != nil {
				return nil, unreadable(p, err)
			}
		}
		for _, file := range files {
			s, err := readFile(file)
			if err != nil {
				return nil, err
			}
			sources = append(sources, s)
		}
	}
	return sources, nil
}

func readFile(file string) (Source, error) {
	f, err := os.Open(file)
	if err != nil {
		return Source{}, unreadable(file, err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Source{}, unreadable(file, err)
	}
	if len(data) > maxFile {
		return Source{}, Errors{{Where: file, Problem: fmt.Sprintf("holds more than the %d bytes that a configuration may have", maxFile)}}
	}
	return Source{Name: file, Data: data}, nil
}

// unreadable is the error for a file that cannot be read.
func unreadable(path string, err error) Errors {
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return Errors{{Where: path, Problem: "cannot be read: " + err.Error(), Hint: "--config names a file or a folder of them"}}
}

func inFolder(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if e.Type()&fs.ModeDir != 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if slices.Contains([]string{".yaml", ".yml", ".json", ".conf"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}
