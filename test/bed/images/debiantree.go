package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/test/bed/debian"
)

// treePackages make the one Debian tree that all layers are cut from.
var treePackages = []string{
	"busybox-static", "bash-static", "bind9-dnsutils", "ca-certificates", "conntrack", "curl", "hostname", "iproute2", "iputils-ping",
	"netcat-openbsd", "nginx", "perl", "procps", "socat", "stress",
}

// basePackages, with what they need, are the layer that every image based on Debian starts with.
// Package management is not among them.
var basePackages = []string{
	"base-files", "base-passwd", "bash", "bind9-dnsutils", "ca-certificates", "coreutils", "curl", "dash", "debianutils", "diffutils", "findutils",
	"grep", "gzip", "hostname", "iproute2", "iputils-ping", "libc-bin", "login", "mawk", "ncurses-base", "ncurses-bin", "netcat-openbsd", "passwd",
	"perl-base", "procps", "sed", "socat", "tar", "util-linux",
}

// dropped are paths of the tree that no package owns and no image needs.
var dropped = []string{"var/lib/dpkg", "var/lib/apt", "var/cache", "boot", "dev/", "proc/", "sys/", "run/", "tmp/", "var/log/"}

// debianTree is the tree with the owner of each path.
type debianTree struct {
	root   string
	status dpkgStatus
	owner  map[string]string // path → package
}

func openTree(ctx context.Context, cacheDir string) (*debianTree, error) {
	root, err := debian.Tree(ctx, cacheDir, treePackages...)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(root, "var/lib/dpkg/status"))
	if err != nil {
		return nil, fmt.Errorf("opening the tree's package status: %w", err)
	}
	defer func() { _ = f.Close() }()
	t := &debianTree{root: root, owner: map[string]string{}}
	if t.status, err = parseStatus(f); err != nil {
		return nil, err
	}
	lists, err := filepath.Glob(filepath.Join(root, "var/lib/dpkg/info/*.list"))
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			return nil, fmt.Errorf("reading a package's files: %w", err)
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(list), ".list"), ":")
		for _, p := range strings.Fields(string(b)) {
			t.owner[merged(strings.TrimPrefix(p, "/"))] = name
		}
	}
	return t, nil
}

// merged maps a path of a package to where a tree with a merged /usr has it.
func merged(p string) string {
	first, _, _ := strings.Cut(p, "/")
	switch first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		if p != first {
			return "usr/" + p
		}
	}
	return p
}

// base lists the files of basePackages and what their installation made.
func (t *debianTree) base() ([]entry, error) {
	keep := t.status.closure(basePackages...)
	entries, err := treeEntries(t.root, func(p string) bool {
		if o, ok := t.owner[p]; ok {
			return keep[o]
		}
		for _, d := range dropped {
			if strings.HasPrefix(p, d) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	entries = withoutEmptyFolders(entries)
	for _, d := range []string{"dev", "proc", "sys", "run", "mnt", "opt", "home", "srv", "var/log", "var/lib"} {
		entries = append(entries, dir(d, 0o755))
	}
	return append(entries, entry{path: "tmp", mode: os.ModeDir | os.ModeSticky | 0o777}, dir("root", 0o700),
		entry{path: "var/tmp", mode: os.ModeDir | os.ModeSticky | 0o777}), nil
}

// extra lists the files of packages beyond those of base.
func (t *debianTree) extra(packages ...string) ([]entry, error) {
	have, want := t.status.closure(basePackages...), t.status.closure(packages...)
	for _, p := range packages {
		if !want[p] {
			return nil, fmt.Errorf("the Debian tree has no package %q", p)
		}
	}
	entries, err := treeEntries(t.root, func(p string) bool {
		o := t.owner[p]
		return want[o] && !have[o]
	})
	return withoutEmptyFolders(entries), err
}

// withoutEmptyFolders drops the folders that lead to no file.
func withoutEmptyFolders(entries []entry) []entry {
	used := map[string]bool{}
	for _, e := range entries {
		if !e.mode.IsDir() {
			for d := filepath.Dir(e.path); d != "."; d = filepath.Dir(d) {
				used[d] = true
			}
		}
	}
	var out []entry
	for _, e := range entries {
		if !e.mode.IsDir() || used[e.path] {
			out = append(out, e)
		}
	}
	return out
}
