package uml

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/nodeagent/nodeagent/test/bed/debian"
)

// guestFiles are the files of ours that go into every disk.
//
//go:embed guest
var guestFiles embed.FS

// guestPackages are installed on a machine, in addition to debootstrap's minimum.
var guestPackages = []string{
	"systemd", "systemd-sysv", "dbus", "kmod", "iproute2", "iptables", "ipset", "ipvsadm", "conntrack", "nftables", "ethtool",
	"ca-certificates", "procps", "util-linux", "e2fsprogs", "libseccomp2", "curl", "socat", "iputils-ping",
}

// kernelParts are the folders of modules that a node may need.
var kernelParts = []string{"net", "lib", "crypto", "arch", "fs/overlayfs", "fs/fuse", "fs/nfs", "fs/lockd", "drivers/net", "drivers/block"}

// Disk describes a machine's disk, in addition to Debian.
type Disk struct {
	// Programs maps names to static binaries on this machine: containerd, containerd-shim-runc-v2,
	// ctr and runc are required
	Programs map[string]string
	CNI      string // folder of CNI plugins, copied to /opt/cni/bin
	// OCI layout tars, imported into containerd's namespace k8s.io and unpacked
	Images []string
}

// PrepareDisk returns an ext4 file for machines to copy. It is made once for the same content and
// kept in cacheDir, which takes a minute or two the first time.
func PrepareDisk(ctx context.Context, cacheDir string, d Disk) (string, error) {
	if err := d.validate(); err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir, "uml")
	unlock, err := debian.Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	guestd, err := buildGuestd(ctx, dir)
	if err != nil {
		return "", err
	}
	version, err := kernelVersion(ctx)
	if err != nil {
		return "", err
	}
	key, err := d.key(guestd, version)
	if err != nil {
		return "", err
	}
	disk := filepath.Join(dir, "disk-"+key+".ext4")
	if _, err := os.Stat(disk); err == nil {
		return disk, debian.Used(disk, "disk-*.ext4")
	}
	p := &preparation{Disk: d, guestd: guestd, kernel: version, cache: cacheDir, tree: filepath.Join(dir, "stage-"+key)}
	defer func() { _ = os.RemoveAll(p.tree) }()
	if err := p.run(ctx, disk+".part"); err != nil {
		return "", fmt.Errorf("preparing a User-Mode Linux disk: %w", err)
	}
	if err := os.Rename(disk+".part", disk); err != nil {
		return "", fmt.Errorf("keeping the disk: %w", err)
	}
	return disk, debian.Used(disk, "disk-*.ext4")
}

func (d Disk) validate() error {
	for _, p := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		if d.Programs[p] == "" {
			return fmt.Errorf("preparing a User-Mode Linux disk: no program %q given", p)
		}
	}
	return nil
}

// key is a hash of everything that the disk depends on.
func (d Disk) key(guestd, kernel string) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, "5", kernel, debian.Key(guestPackages), kernelParts)
	files := append([]string{guestd}, d.Images...)
	for name, path := range d.Programs {
		_, _ = fmt.Fprintln(h, name)
		files = append(files, path)
	}
	if d.CNI != "" {
		plugins, err := filepath.Glob(filepath.Join(d.CNI, "*"))
		if err != nil {
			return "", fmt.Errorf("listing CNI plugins: %w", err)
		}
		files = append(files, plugins...)
	}
	sort.Strings(files)
	for _, f := range files {
		if err := hashFile(h, f); err != nil {
			return "", err
		}
	}
	entries, err := guestFiles.ReadDir("guest")
	if err != nil {
		return "", fmt.Errorf("listing guest files: %w", err)
	}
	for _, e := range entries {
		b, err := guestFiles.ReadFile("guest/" + e.Name())
		if err != nil {
			return "", fmt.Errorf("reading guest file: %w", err)
		}
		_, _ = fmt.Fprintln(h, e.Name(), len(b))
		_, _ = h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func hashFile(h io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	_, _ = fmt.Fprintln(h, filepath.Base(path))
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("hashing %q: %w", path, err)
	}
	return nil
}

// buildGuestd builds the command agent reproducibly, so that the disk's key changes only for a
// reason.
func buildGuestd(ctx context.Context, dir string) (string, error) {
	out := filepath.Join(dir, "guestd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out,
		"github.com/nodeagent/nodeagent/test/bed/uml/guestd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return out, runQuiet(cmd)
}

// kernelVersion asks the User-Mode Linux kernel for its release, such as 6.1.176.
func kernelVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, kernelProgram, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version (Debian package user-mode-linux): %w", kernelProgram, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func runQuiet(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		s := strings.TrimSpace(string(out))
		return fmt.Errorf("running %s: %w: %s", strings.Join(cmd.Args, " "), err, s[max(0, len(s)-600):])
	}
	return nil
}
