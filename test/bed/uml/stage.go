package uml

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/test/bed/debian"
)

// preparation is one disk being made.
type preparation struct {
	Disk
	guestd, kernel, cache, tree string
}

func (p *preparation) run(ctx context.Context, disk string) error {
	base, err := debian.Tree(ctx, p.cache, guestPackages...)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(p.tree); err != nil {
		return fmt.Errorf("removing an old stage: %w", err)
	}
	if err := runQuiet(exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", base, p.tree)); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{p.modules, p.programs, p.system, p.images} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	_ = os.Remove(disk)
	// 6 GiB, sparse. Tables are written now, because the machine's processor is slow.
	return runQuiet(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-N", "262144", "-J", "size=16",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", p.tree, disk, "6G"))
}

// modules copies the kernel modules that nodes need and indexes them.
func (p *preparation) modules(ctx context.Context) error {
	src, dst := filepath.Join("/usr/lib/uml/modules", p.kernel), filepath.Join(p.tree, "usr/lib/modules", p.kernel)
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return fmt.Errorf("making module folder: %w", err)
	}
	args := []string{"-a", "--parents"}
	for _, part := range kernelParts {
		if _, err := os.Stat(filepath.Join(src, "kernel", part)); err == nil {
			args = append(args, filepath.Join("kernel", part))
		}
	}
	args = append(args, "modules.builtin", "modules.builtin.modinfo", "modules.order", dst)
	cp := exec.CommandContext(ctx, "cp", args...)
	cp.Dir = src
	if err := runQuiet(cp); err != nil {
		return err
	}
	return runQuiet(exec.CommandContext(ctx, "depmod", "-b", p.tree, p.kernel))
}

func (p *preparation) programs(ctx context.Context) error {
	bin := filepath.Join(p.tree, "usr/local/bin")
	all := map[string]string{"guestd": p.guestd}
	for n, path := range p.Programs {
		all[n] = path
	}
	for n, path := range all {
		if err := runQuiet(exec.CommandContext(ctx, "install", "-m", "755", path, filepath.Join(bin, n))); err != nil {
			return err
		}
	}
	cni := filepath.Join(p.tree, "opt/cni")
	if err := os.MkdirAll(filepath.Join(cni, "bin"), 0o755); err != nil {
		return fmt.Errorf("making CNI folder: %w", err)
	}
	if p.CNI == "" {
		return nil
	}
	return runQuiet(exec.CommandContext(ctx, "cp", "-aL", p.CNI+"/.", filepath.Join(cni, "bin")))
}

// system writes units and settings. It masks timers, consoles and clocks that a test machine does
// not need: they cost seconds of its only processor.
func (p *preparation) system(context.Context) error {
	for src, dst := range map[string]string{
		"bed-setup.service": "etc/systemd/system/bed-setup.service", "bed-guestd.service": "etc/systemd/system/bed-guestd.service",
		"containerd.service": "etc/systemd/system/containerd.service", "config.toml": "etc/containerd/config.toml",
	} {
		b, err := guestFiles.ReadFile("guest/" + src)
		if err != nil {
			return fmt.Errorf("reading guest file %q: %w", src, err)
		}
		if err := p.write(dst, string(b)); err != nil {
			return err
		}
	}
	links := map[string]string{
		"etc/systemd/system/sysinit.target.wants/bed-setup.service":     "/etc/systemd/system/bed-setup.service",
		"etc/systemd/system/multi-user.target.wants/bed-guestd.service": "/etc/systemd/system/bed-guestd.service",
		"etc/systemd/system/multi-user.target.wants/containerd.service": "/etc/systemd/system/containerd.service",
		"etc/systemd/system/default.target":                             "/lib/systemd/system/multi-user.target",
		// nf_tables of this kernel supports no address families.
		"etc/alternatives/iptables": "/usr/sbin/iptables-legacy", "etc/alternatives/iptables-save": "/usr/sbin/iptables-legacy-save",
		"etc/alternatives/iptables-restore": "/usr/sbin/iptables-legacy-restore",
		"etc/alternatives/ip6tables":        "/usr/sbin/ip6tables-legacy", "etc/alternatives/ip6tables-save": "/usr/sbin/ip6tables-legacy-save",
		"etc/alternatives/ip6tables-restore": "/usr/sbin/ip6tables-legacy-restore",
	}
	for _, u := range []string{
		"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty@.service",
		"console-getty.service", "serial-getty@.service", "systemd-timesyncd.service", "systemd-pstore.service", "systemd-update-utmp.service",
		"systemd-journal-catalog-update.service", "ldconfig.service", "conntrackd.service", "nftables.service", "ipvsadm.service", "systemd-udev-settle.service",
	} {
		links["etc/systemd/system/"+u] = "/dev/null"
	}
	for name, target := range links {
		path := filepath.Join(p.tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("making folder of %q: %w", name, err)
		}
		_ = os.Remove(path)
		if err := os.Symlink(target, path); err != nil {
			return fmt.Errorf("linking %q: %w", name, err)
		}
	}
	for name, text := range map[string]string{
		"etc/fstab": "/dev/ubda / ext4 defaults 0 0\n", "etc/hostname": "bed\n", "etc/machine-id": "", "etc/resolv.conf": "",
		"etc/systemd/journald.conf.d/bed.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nForwardToConsole=no\nRateLimitBurst=0\n",
		"etc/systemd/system.conf.d/bed.conf":   "[Manager]\nDefaultTimeoutStopSec=30s\nDefaultMemoryAccounting=yes\nDefaultCPUAccounting=yes\n",
	} {
		if err := p.write(name, text); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(p.tree, "var/log/journal"), 0o755)
}

func (p *preparation) write(name, text string) error {
	path := filepath.Join(p.tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making folder of %q: %w", name, err)
	}
	_ = os.Remove(path) // it may be a link that leads out of the tree
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	return nil
}

// images imports the images with this machine's containerd, which takes seconds instead of minutes.
func (p *preparation) images(ctx context.Context) error {
	if len(p.Images) == 0 {
		return nil
	}
	run, err := os.MkdirTemp("", "bed-uml-")
	if err != nil {
		return fmt.Errorf("making a folder for containerd: %w", err)
	}
	defer func() { _ = os.RemoveAll(run) }()
	sock, conf := filepath.Join(run, "c.sock"), filepath.Join(run, "config.toml")
	text := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\"]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		filepath.Join(p.tree, "var/lib/containerd"), filepath.Join(run, "state"), sock, sock+".ttrpc")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	// Its own mount namespace: nothing that containerd mounts outlives it.
	daemon := exec.Command("unshare", "--mount", "--propagation", "private", "--net", p.Programs["containerd"], "--config", conf)
	var log strings.Builder
	daemon.Stdout, daemon.Stderr = &log, &log
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = daemon.Wait()
		close(exited)
	}()
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			_ = daemon.Process.Kill()
			<-exited
		}
	}()
	ctr := func(args ...string) error {
		return runQuiet(exec.CommandContext(ctx, p.Programs["ctr"], append([]string{"--address", sock, "--namespace", "k8s.io"}, args...)...))
	}
	if err := waitFor(ctx, time.Minute, 100*time.Millisecond, func() error { return ctr("version") }); err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	for _, image := range p.Images {
		if err := ctr("images", "import", image); err != nil {
			return fmt.Errorf("importing image: %w", err)
		}
	}
	return nil
}

// waitFor calls ready until it returns nil, or the limit is reached; then it returns the last
// error.
func waitFor(ctx context.Context, limit, pause time.Duration, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not after %v: %w", limit, err)
		case <-time.After(pause):
		}
	}
}
