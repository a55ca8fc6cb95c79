// Package debian is EDGE: it makes Debian trees, which the test images and the User-Mode Linux
// disks are cut from.
//
// A tree is made once for a list of packages and kept in the cache folder. The trees of one cache
// folder share their downloads. It needs root, debootstrap and, the first time, a Debian mirror
// (environment: BED_DEBIAN_MIRROR; default: debootstrap's own).
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Suite is the Debian release that trees are made of.
const Suite = "bookworm"

// stripped are the parts of a tree that no test reads.
var stripped = []string{
	"var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale",
	"usr/share/info", "usr/share/lintian", "usr/share/bash-completion", "usr/share/i18n", "debootstrap",
}

// Tree returns the folder of a minimal Debian with the packages added. The folder belongs to the
// cache: read it, never write to it.
func Tree(ctx context.Context, cacheDir string, packages ...string) (string, error) {
	packages = append([]string(nil), packages...)
	sort.Strings(packages)
	tree := filepath.Join(cacheDir, "debian", "tree-"+Key(packages))
	unlock, err := Lock(ctx, tree+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	work := tree + ".part"
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("removing half a tree %q: %w", work, err)
	}
	if err := debootstrap(ctx, filepath.Join(cacheDir, "debian", "downloads"), work, packages); err != nil {
		return "", err
	}
	for _, s := range stripped {
		if err := os.RemoveAll(filepath.Join(work, s)); err != nil {
			return "", fmt.Errorf("stripping %q: %w", s, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(work, "var/log"), 0o755); err != nil {
		return "", fmt.Errorf("making var/log: %w", err)
	}
	if err := os.Rename(work, tree); err != nil {
		return "", fmt.Errorf("keeping the tree: %w", err)
	}
	return tree, nil
}

// Key names a list of packages of this suite, in any order.
func Key(packages []string) string {
	p := append([]string(nil), packages...)
	sort.Strings(p)
	sum := sha256.Sum256([]byte(Suite + " " + strings.Join(append(p, stripped...), " ")))
	return hex.EncodeToString(sum[:6])
}

func debootstrap(ctx context.Context, downloads, tree string, packages []string) error {
	if err := os.MkdirAll(downloads, 0o755); err != nil {
		return fmt.Errorf("making download folder: %w", err)
	}
	args := []string{"--variant=minbase", "--cache-dir=" + downloads}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	args = append(args, Suite, tree)
	if m := os.Getenv("BED_DEBIAN_MIRROR"); m != "" {
		args = append(args, m)
	}
	out, err := exec.CommandContext(ctx, "debootstrap", args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("making a Debian tree with debootstrap (needs root and a mirror): %w: %s", err,
			strings.Join(lines[max(0, len(lines)-5):], "; "))
	}
	return nil
}

// Lock takes an exclusive lock on a file that it makes, across processes, and returns what releases
// it.
func Lock(ctx context.Context, path string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making folder of lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("locking %q: %w", path, err)
		}
		return func() { _ = f.Close() }, nil
	case <-ctx.Done():
		go func() { // the lock cannot be interrupted: let go of it as soon as it comes
			_ = errors.Join(<-got, f.Close())
		}()
		return nil, fmt.Errorf("waiting for lock %q: %w", path, ctx.Err())
	}
}
