package uml

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kernelProgram is Debian's user-mode-linux: a kernel that is a process.
const kernelProgram = "linux.uml"

//go:embed boot.sh
var bootScript string

// bootLimit is how long a machine may take until its command agent answers; it usually takes about
// 10 s.
const bootLimit = 4 * time.Minute

// Options describe one machine.
type Options struct {
	Name string // host name, a DNS label
	// folder of this machine alone, made by Start and removed by Stop: disk, console.log, pid
	Dir  string
	Disk string // disk to copy, from PrepareDisk
	// network namespace that holds the tap: a name below /run/netns, or a path. Never empty
	Netns string
	// bridge in Netns that gets the tap; empty: the tap itself gets Gateway as its address
	Bridge string
	// the machine's address with the length of its network, such as 192.168.77.12/24
	Address   netip.Prefix
	Gateway   netip.Addr // its default route; the zero value means none
	MemoryMiB int        // 0 means 1024
}

func (o Options) validate() error {
	var errs []error
	for what, missing := range map[string]bool{
		"Name": o.Name == "", "Dir": o.Dir == "", "Disk": o.Disk == "", "Netns": o.Netns == "", "Address": !o.Address.IsValid(),
	} {
		if missing {
			errs = append(errs, fmt.Errorf("%s is not set", what))
		}
	}
	if o.Bridge == "" && !o.Gateway.IsValid() {
		errs = append(errs, errors.New("neither Bridge nor Gateway is set"))
	}
	if len(o.Dir) > 80 {
		errs = append(errs, fmt.Errorf("folder %q is longer than the 80 bytes that leave room for a socket's path", o.Dir))
	}
	return errors.Join(errs...)
}

func (o Options) netnsPath() string {
	if strings.Contains(o.Netns, "/") {
		return o.Netns
	}
	return filepath.Join("/run/netns", o.Netns)
}

// tap names the machine's tap: unique in a namespace, since Dir is unique on the machine.
func (o Options) tap() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(o.Dir))
	return fmt.Sprintf("t%08x", h.Sum32())
}

func (o Options) kernelArgs(token string) []string {
	mem := o.MemoryMiB
	if mem == 0 {
		mem = 1024
	}
	args := []string{
		"ubda=" + filepath.Join(o.Dir, "disk.ext4"), "root=/dev/ubda", "rootfstype=ext4", "rw", "quiet",
		fmt.Sprintf("mem=%dM", mem), "umid=" + o.Name, "uml_dir=" + o.Dir, "con0=null,fd:1", "con=null", "ssl=null",
		"vec0:transport=tap,ifname=" + o.tap() + ",depth=128,gro=1",
		"systemd.unified_cgroup_hierarchy=1", "systemd.show_status=0", "net.ifnames=0",
		"bed.name=" + o.Name, "bed.addr=" + o.Address.String(), "bed.token=" + token,
	}
	if o.Gateway.IsValid() {
		args = append(args, "bed.gw="+o.Gateway.String())
	}
	return args
}

// Machine is one machine, powered on or off.
type Machine struct {
	opts  Options
	token string

	mu     sync.Mutex
	power  *exec.Cmd     // the kernel's process; nil when off
	exited chan struct{} // closed when that process has ended
}

// Start copies the disk, makes the tap, boots and waits until the machine runs commands and
// containerd. On error nothing is left but Dir with console.log.
func Start(ctx context.Context, o Options) (*Machine, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("starting a User-Mode Linux machine: %w", err)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolving folder %q: %w", o.Dir, err)
	}
	o.Dir = dir
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making machine folder: %w", err)
	}
	cp := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", o.Disk, filepath.Join(o.Dir, "disk.ext4"))
	if err := runQuiet(cp); err != nil {
		return nil, err
	}
	m := &Machine{opts: o, token: rand.Text()}
	if err := m.addTap(ctx); err != nil {
		return nil, err
	}
	if err := m.Boot(ctx); err != nil {
		return nil, errors.Join(err, m.PullPlug(), m.removeTap(context.WithoutCancel(ctx)))
	}
	return m, nil
}

// Name is the machine's host name.
func (m *Machine) Name() string { return m.opts.Name }

// Address is the machine's address in its network.
func (m *Machine) Address() netip.Addr { return m.opts.Address.Addr() }

// Console is the file that holds what the kernel and systemd printed, over all boots.
func (m *Machine) Console() string { return filepath.Join(m.opts.Dir, "console.log") }

// Boot powers on a machine that is off, and waits like Start.
func (m *Machine) Boot(ctx context.Context) error {
	m.mu.Lock()
	err := m.powerOn()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.waitUp(ctx, "")
}

func (m *Machine) powerOn() error {
	if m.power != nil {
		return fmt.Errorf("booting machine %q: it is on", m.opts.Name)
	}
	console, err := os.OpenFile(m.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening console log: %w", err)
	}
	defer func() { _ = console.Close() }()
	// umid folder of a machine that lost its power
	_ = os.RemoveAll(filepath.Join(m.opts.Dir, m.opts.Name))
	boot := filepath.Join(m.opts.Dir, "boot")
	if err := os.WriteFile(boot, []byte(bootScript), 0o755); err != nil {
		return fmt.Errorf("writing boot script: %w", err)
	}
	args := append([]string{"--net=" + m.opts.netnsPath(), "--", boot}, m.opts.kernelArgs(m.token)...)
	cmd := exec.Command("nsenter", args...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("booting machine %q: %w", m.opts.Name, err)
	}
	if err := os.WriteFile(filepath.Join(m.opts.Dir, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("recording machine's process: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	m.power, m.exited = cmd, exited
	return nil
}

// waitUp waits until the machine runs commands, in another boot than the given one, and containerd
// is active.
func (m *Machine) waitUp(ctx context.Context, notBoot string) error {
	err := waitFor(ctx, bootLimit, 200*time.Millisecond, func() error {
		probe, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		id, err := m.BootID(probe)
		if err != nil {
			return err
		}
		if id == notBoot {
			return errors.New("it has not gone down yet")
		}
		r, err := m.Exec(probe, "systemctl", "is-active", "containerd")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("containerd is %s", strings.TrimSpace(r.Stdout))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for machine %q (see %s): %w", m.opts.Name, m.Console(), err)
	}
	return nil
}

// BootID changes with every boot.
func (m *Machine) BootID(ctx context.Context) (string, error) {
	r, err := m.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(r.Stdout), nil
}

// Reboot restarts the machine through systemd and waits as Start does.
func (m *Machine) Reboot(ctx context.Context) error {
	before, err := m.BootID(ctx)
	if err != nil {
		return fmt.Errorf("rebooting machine %q: %w", m.opts.Name, err)
	}
	// The agent may be stopped before it has answered; what counts is whether the machine goes
	// down.
	_, _ = m.Exec(ctx, "systemctl", "--no-block", "reboot")
	return m.waitUp(ctx, before)
}

// PullPlug cuts the machine's power: nothing is synced and nobody is told. Doing it twice is no
// error.
func (m *Machine) PullPlug() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power == nil {
		return nil
	}
	pid := m.power.Process.Pid
	select {
	case <-m.exited: // its number may be another process's by now
	default:
		if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing machine %q: %w", m.opts.Name, err)
		}
		<-m.exited
	}
	m.power = nil
	if err := os.Remove(filepath.Join(m.opts.Dir, "pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting machine's process: %w", err)
	}
	return nil
}

// Stop shuts the machine down, through systemd if it still answers, and removes its tap and its
// folder.
func (m *Machine) Stop(ctx context.Context) error {
	m.mu.Lock()
	exited := m.exited
	on := m.power != nil
	m.mu.Unlock()
	if on {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := m.Exec(ask, "systemctl", "--no-block", "poweroff")
		cancel()
		if err == nil {
			select {
			case <-exited:
			case <-ctx.Done():
			case <-time.After(40 * time.Second):
			}
		}
	}
	return m.Discard(ctx)
}

// Discard cuts the power and removes the machine's tap and folder, for tests that need no orderly
// end.
func (m *Machine) Discard(ctx context.Context) error {
	return errors.Join(m.PullPlug(), m.removeTap(context.WithoutCancel(ctx)), os.RemoveAll(m.opts.Dir))
}

// TestPrefix is the prefix, before the process id, of the network namespaces and folders of this
// package's own tests.
const TestPrefix = "umltest"

// Sweep ends what a killed run left of the machine in dir, and removes dir. It knows the process by
// its command line, so it never kills one that merely got the same number. The tap goes with its
// namespace.
//
// A machine's processes must be killed as one group: a guest's process that loses the kernel that
// traces it would go on by itself, with its system calls reaching this machine.
func Sweep(dir string) error {
	if b, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if pid > 1 && isMachine(pid, dir) {
			if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing the machine of %q: %w", dir, err)
			}
			for i := 0; isMachine(pid, dir); i++ {
				if i == 500 {
					return fmt.Errorf("killing the machine of %q: process %d is still there after 5 s", dir, pid)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	return os.RemoveAll(dir)
}

// isMachine reports whether the process runs the kernel, or the script that starts it, of the
// machine in dir.
func isMachine(pid int, dir string) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(cmdline), "uml_dir="+dir+"\x00")
}
