// Package tools is EDGE: it builds the programs of the test bed from the pinned modules below
// test/tools.
//
// Programs are built on demand into a cache folder that survives between runs, one folder for each
// state of a module's go.mod, go.sum, the Go release and the processor, so that a change there
// builds anew and a change back finds the old ones. Concurrent builds, also of several processes,
// take turns. It also knows the Debian packages that the test bed needs and installs what is
// missing. It writes nowhere but to the cache folder and, through apt-get, to the system.
package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"
)

// Builder builds programs. The zero value of each field but Source has a default.
type Builder struct {
	Source string    // root of the product's source tree; see FindSource
	Cache  string    // cache folder; default CacheDir()
	Log    io.Writer // progress lines; default none
}

// Paths says where built programs are.
type Paths struct {
	files map[string]string
}

// Get returns the path of a program, or "" if it was not asked for.
func (p Paths) Get(name string) string { return p.files[name] }

// CNIDir returns the folder that holds the CNI plugins, or "" if none was asked for.
func (p Paths) CNIDir() string {
	for name, path := range p.files {
		if catalog()[name].cni {
			return filepath.Dir(path)
		}
	}
	return ""
}

// SearchPath returns the folders of the programs joined for use in PATH, sorted.
func (p Paths) SearchPath() string {
	var dirs []string
	for name, path := range p.files {
		if !catalog()[name].cni {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	sort.Strings(dirs)
	return strings.Join(slices.Compact(dirs), ":")
}

// Names returns the names of the programs, sorted.
func (p Paths) Names() []string {
	var out []string
	for n := range p.files {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// CacheDir is the folder for everything that is slow to make: $NODEAGENT_CACHE, or nodeagent-bed in
// the user's cache folder.
func CacheDir() (string, error) {
	if d := os.Getenv("NODEAGENT_CACHE"); d != "" {
		return filepath.Abs(d)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache folder (set NODEAGENT_CACHE): %w", err)
	}
	return filepath.Join(base, "nodeagent-bed"), nil
}

// FindSource returns the root of the product's source tree: $NODEAGENT_SOURCE, or the nearest
// folder at or above the working directory that contains test/tools.
func FindSource() (string, error) {
	if d := os.Getenv("NODEAGENT_SOURCE"); d != "" {
		return filepath.Abs(d)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test/tools", modKubernetes, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding the source tree above %q: not inside one; run from a checkout or set NODEAGENT_SOURCE", start)
		}
	}
}

// New returns a Builder on the source tree around the working directory and the default cache
// folder.
func New(log io.Writer) (*Builder, error) {
	src, err := FindSource()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &Builder{Source: src, Cache: cache, Log: log}, nil
}

// Build builds those of the named programs that the cache lacks, and returns their paths. An
// unknown name is an error.
func (b *Builder) Build(ctx context.Context, names ...string) (Paths, error) {
	known := catalog()
	byModule := map[string][]string{}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		p, ok := known[n]
		if !ok {
			return Paths{}, fmt.Errorf("building program %q: unknown; known are %s", n, strings.Join(Names(), ", "))
		}
		byModule[p.module] = append(byModule[p.module], n)
	}
	out := Paths{files: map[string]string{}}
	modules := make([]string, 0, len(byModule))
	for m := range byModule {
		modules = append(modules, m)
	}
	sort.Strings(modules)
	for _, m := range modules {
		if err := b.buildModule(ctx, m, byModule[m], out.files); err != nil {
			return Paths{}, err
		}
	}
	return out, nil
}

// buildModule adds the paths of one module's programs to out, building what is missing with as few
// go commands as can be: the linker of one program then runs beside the compiler of the next.
func (b *Builder) buildModule(ctx context.Context, module string, names []string, out map[string]string) error {
	src := filepath.Join(b.Source, "test/tools", module)
	key, err := moduleKey(ctx, src)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.Cache, "tools", module+"-"+key)
	missing := func() (todo []string) {
		for _, n := range names {
			out[n] = filepath.Join(dir, subdir(n), n)
			if _, err := os.Stat(out[n]); err != nil {
				todo = append(todo, n)
			}
		}
		return todo
	}
	if len(missing()) == 0 {
		return nil
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	for _, group := range groups(missing()) {
		if err := b.compile(ctx, src, dir, group); err != nil {
			return err
		}
	}
	return nil
}

// subdir keeps CNI plugins apart, since a node's CNI folder holds nothing else.
func subdir(name string) string {
	if catalog()[name].cni {
		return "cni"
	}
	return "bin"
}

// groups splits names into groups that one go command can build.
func groups(names []string) [][]string {
	by := map[string][]string{}
	for _, n := range names {
		p := catalog()[n]
		k := p.tags + subdir(n)
		// A package in its module's root is not named like the program, and a test binary needs
		// another command.
		if p.test || filepath.Base(p.pkg) != n {
			k = n
		}
		by[k] = append(by[k], n)
	}
	var keys []string
	for k := range by {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var out [][]string
	for _, k := range keys {
		out = append(out, by[k])
	}
	return out
}

// compile runs one go command for programs with the same settings and moves the results into place
// at the end, so that a killed build leaves nothing that looks complete.
func (b *Builder) compile(ctx context.Context, src, dir string, names []string) error {
	p := catalog()[names[0]]
	started := time.Now()
	b.logf("building %s (from test/tools/%s)", strings.Join(names, " "), p.module)
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".building-")
	if err != nil {
		return fmt.Errorf("making a build folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	args := []string{"build"}
	if p.test {
		args = []string{"test", "-c"}
	}
	args = append(args, "-mod=readonly", "-tags", p.tags, "-ldflags", p.ldflags(), "-o")
	if len(names) == 1 {
		args = append(args, filepath.Join(tmp, names[0]))
	} else {
		args = append(args, tmp+"/")
	}
	for _, n := range names {
		args = append(args, catalog()[n].pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED="+map[bool]string{true: "1", false: "0"}[p.cgo])
	if err := b.runWithTicks(cmd, names, started); err != nil {
		return err
	}
	for _, n := range names {
		final := filepath.Join(dir, subdir(n), n)
		if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
			return fmt.Errorf("making folder for %q: %w", n, err)
		}
		if err := os.Rename(filepath.Join(tmp, n), final); err != nil {
			return fmt.Errorf("keeping program %q: %w", n, err)
		}
	}
	b.logf("built %s in %s", strings.Join(names, " "), time.Since(started).Round(time.Second))
	return nil
}

// runWithTicks runs a build and logs every half minute that it still runs, since the Kubernetes
// programs take minutes.
func (b *Builder) runWithTicks(cmd *exec.Cmd, names []string, started time.Time) error {
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the Go compiler (is Go in PATH?): %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("building %s: %w\n%s", strings.Join(names, " "), err, tail(output.String(), 4000))
			}
			return nil
		case <-tick.C:
			b.logf("still building %s … %s", names[0], time.Since(started).Round(time.Second))
		}
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (b *Builder) logf(format string, args ...any) {
	if b.Log != nil {
		_, _ = fmt.Fprintf(b.Log, format+"\n", args...)
	}
}

// moduleKey is a hash of a module's state: if it changes, the programs are built again.
func moduleKey(ctx context.Context, src string) (string, error) {
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("asking for the Go release (is Go in PATH?): %w", err)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %s %s\n", strings.TrimSpace(string(version)), runtime.GOOS, runtime.GOARCH)
	for _, f := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(src, f))
		if err != nil {
			return "", fmt.Errorf("reading the tools module: %w", err)
		}
		_, _ = fmt.Fprintf(h, "%s %d\n%s", f, len(content), content)
	}
	for _, n := range Names() {
		if p := catalog()[n]; p.module == filepath.Base(src) {
			_, _ = fmt.Fprintf(h, "%+v %s\n", p, p.ldflags())
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// Product builds the programs of the product itself, from cmd/NAME, into bin/product of the source
// tree, so that two trees do not run each other's programs, and returns the folder. It asks the Go
// compiler each time, which takes a second when nothing changed.
func (b *Builder) Product(ctx context.Context, names ...string) (string, error) {
	dir := filepath.Join(b.Source, "bin", "product")
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making folder for the product's programs: %w", err)
	}
	var errs []error
	for _, n := range names {
		started := time.Now()
		// The linker replaces the file instead of writing into it, so running programs are not
		// disturbed.
		cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, n), "./cmd/"+n)
		cmd.Dir = b.Source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := b.runWithTicks(cmd, []string{n}, started); err != nil {
			errs = append(errs, err)
			continue
		}
		b.logf("built %s in %s", n, time.Since(started).Round(100*time.Millisecond))
	}
	return dir, errors.Join(errs...)
}
