// Package golden is a CONTRACT between tests and their txtar files: it runs a function over every
// archive that matches a pattern and compares the function's results with the archive. With `go
// test -update` it rewrites the archive instead.
//
// An archive is `golang.org/x/tools/txtar`: a comment, then files. By convention inputs are named
// `in*` or `*.yaml` and outputs `want*`. The files that the function returns are outputs; every
// other file is input and never changed.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// update is a test flag: `go test ./pkg/x -update` writes the outputs.
//
//nolint:gochecknoglobals // package flag knows no other way
var update = flag.Bool("update", false, "rewrite the expected files of txtar archives")

// Func maps the files of one archive to its output files. It gets every file of the archive,
// outputs included. The test fails if it returns an output that the archive lacks, unless -update
// is set, or if it does not return an expected file (named want*).
type Func func(t *testing.T, files map[string][]byte) map[string][]byte

// Run runs f for each archive that matches pattern, as a subtest named after the file. It fails if
// no archive matches.
func Run(t *testing.T, pattern string, f Func) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatalf("matching %q: %v", pattern, err)
	}
	if len(paths) == 0 {
		t.Fatalf("matching %q: no archive found", pattern)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		t.Run(name, func(t *testing.T) { runOne(t, path, f) })
	}
}

func runOne(t *testing.T, path string, f Func) {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatalf("reading %q: %v", path, err)
	}
	files := make(map[string][]byte, len(archive.Files))
	for _, file := range archive.Files {
		if _, double := files[file.Name]; double {
			t.Fatalf("reading %q: file %q is there twice", path, file.Name)
		}
		files[file.Name] = file.Data
	}
	got := f(t, files)
	if t.Failed() {
		return
	}
	if *update {
		writeBack(t, path, archive, got)
		return
	}
	for _, name := range problems(files, got) {
		t.Error(name)
	}
}

// problems returns one text for each difference, sorted by name.
func problems(files, got map[string][]byte) []string {
	var out []string
	for _, name := range sortedNames(got) {
		want, ok := files[name]
		switch {
		case !ok:
			out = append(out, "file "+name+" is not in the archive (run with -update to add it); got:\n"+string(got[name]))
		case !bytes.Equal(normal(want), normal(got[name])):
			out = append(out, "file "+name+" differs (run with -update to accept):\n"+LineDiff(string(want), string(got[name])))
		}
	}
	for _, name := range sortedNames(files) {
		if _, ok := got[name]; !ok && strings.HasPrefix(name, "want") {
			out = append(out, "file "+name+" is expected by the archive, but the test made none")
		}
	}
	return out
}

// normal ends text with exactly one newline, as txtar stores it.
func normal(b []byte) []byte {
	if len(b) == 0 || b[len(b)-1] == '\n' {
		return b
	}
	return append(bytes.Clone(b), '\n')
}

func writeBack(t *testing.T, path string, archive *txtar.Archive, got map[string][]byte) {
	t.Helper()
	kept := archive.Files[:0]
	seen := map[string]bool{}
	for _, file := range archive.Files {
		data, ok := got[file.Name]
		if !ok && strings.HasPrefix(file.Name, "want") {
			continue // no longer made
		}
		if ok {
			file.Data = normal(data)
		}
		seen[file.Name] = true
		kept = append(kept, file)
	}
	for _, name := range sortedNames(got) {
		if !seen[name] {
			kept = append(kept, txtar.File{Name: name, Data: normal(got[name])})
		}
	}
	archive.Files = kept
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatalf("writing %q: %v", path, err)
	}
}

func sortedNames(m map[string][]byte) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Each calls f with the files of every archive that matches pattern, for tests that use the inputs
// of golden tests for something else.
func Each(t testing.TB, pattern string, f func(files map[string][]byte)) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("matching %q: %d archives, %v", pattern, len(paths), err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatalf("reading %q: %v", path, err)
		}
		files := map[string][]byte{}
		for _, file := range archive.Files {
			files[file.Name] = file.Data
		}
		f(files)
	}
}
