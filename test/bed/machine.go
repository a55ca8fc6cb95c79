package bed

import (
	"bufio"
	"context"
	_ "embed" // for the holder's script
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed machine.sh
var machineScript string

// machine is a named network namespace, and a holder process with mount, PID, UTS and IPC
// namespaces.
type machine struct {
	run    *run
	name   string // "cp", or the node's name
	netns  string // name below /run/netns
	holder processID
	cmd    *exec.Cmd // nil in a process other than the one that started it
	life   io.Closer // its closing ends the holder; nil for a detached machine
}

// netnsDir is where ip(8) pins network namespaces.
const netnsDir = "/run/netns/"

// newMachine creates the network namespace and starts the holder. kind is "node" or "plain".
func newMachine(ctx context.Context, r *run, name, kind string) (*machine, error) {
	m := &machine{run: r, name: name, netns: "bed-" + r.rec.ID + "-" + name}
	// Recorded before it exists: a kill in between must not leave an unknown namespace.
	err := r.update(func(rec *record) { rec.machine(name).NetNS = m.netns })
	if err != nil {
		return nil, err
	}
	if err := ip(ctx, "netns", "add", m.netns); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.dir(), 0o755); err != nil {
		return nil, fmt.Errorf("making folder of machine %q: %w", name, err)
	}
	if err := m.startHolder(ctx, kind); err != nil {
		return nil, fmt.Errorf("starting machine %q: %w", name, err)
	}
	return m, r.update(func(rec *record) { rec.machine(name).Holder = m.holder })
}

// dir is the machine's part of the run folder.
func (m *machine) dir() string { return m.run.path(m.name) }

func (m *machine) startHolder(ctx context.Context, kind string) error {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("making a pipe: %w", err), lifeR.Close(), lifeW.Close())
	}
	defer func() { _, _ = lifeR.Close(), readyR.Close() }()
	log, err := openLog(m.run.path("log", m.name+"-holder.log"))
	if err != nil {
		return errors.Join(err, lifeW.Close(), readyW.Close())
	}
	defer func() { _ = log.Close() }()

	life := "attached"
	if m.run.snapshot().Detached {
		life = "detached"
	}
	// A separate file keeps the process list readable.
	script := filepath.Join(m.dir(), "machine.sh")
	if err := os.WriteFile(script, []byte(machineScript), 0o755); err != nil {
		return errors.Join(fmt.Errorf("writing holder's script: %w", err), lifeW.Close(), readyW.Close())
	}
	// Not CommandContext: the machine outlives the context of its start.
	m.cmd = exec.Command("nsenter", "--net="+netnsDir+m.netns, "--", "bash", script, m.name, m.dir(), kind, life)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.ExtraFiles = []*os.File{lifeR, readyW}
	m.cmd.SysProcAttr = &unix.SysProcAttr{
		// Ctrl-C on the terminal is for the owner, which then stops the cluster in order
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	err = m.cmd.Start()
	_ = readyW.Close()
	if err != nil {
		return errors.Join(fmt.Errorf("starting holder: %w", err), lifeW.Close())
	}
	m.life = lifeW
	go func() { _ = m.cmd.Wait() }()
	if m.holder, err = identify(m.cmd.Process.Pid); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = readyR.Close() })
	defer stop()
	if line, err := bufio.NewReader(readyR).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("holder ended early (%w): %s", err, logTail(log.Name(), 5))
	}
	return nil
}

// root is where this machine's files are visible from outside, including mounts and sockets.
func (m *machine) root() string { return "/proc/" + strconv.Itoa(m.holder.PID) + "/root" }

// command prepares a program inside all namespaces of the machine. The caller sets its standard
// streams.
func (m *machine) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(m.holder.PID)
	all := append([]string{"-t", pid, "--mount", "--pid", "--uts", "--ipc", "--net=" + netnsDir + m.netns, "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", all...)
	cmd.Env = append(environment(), env...)
	return cmd
}

// environment is the test's own, without this machine's proxy settings, which do not apply inside
// of a cluster.
func environment() []string { return append(os.Environ(), "NO_PROXY=*", "no_proxy=*") }

// output runs a program inside the machine and returns its output.
func (m *machine) output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	return output(m.command(ctx, env, name, args...))
}

// output runs a command; its error holds what the command wrote to standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("running %q: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()+" "+string(out)))
	}
	return string(out), nil
}

// dial connects from inside the machine's network namespace. The address must be an IP address with
// a port, or the path of a socket on the outside. A socket stays in the namespace that it was
// created in, so only its creation needs a thread that has entered the namespace.
func (m *machine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		err := inNetNS(m.netns, func() { r.conn, r.err = new(net.Dialer).DialContext(ctx, network, address) })
		done <- result{r.conn, errors.Join(err, r.err)}
	}()
	r := <-done
	return r.conn, r.err
}

// Listen listens for TCP connections in a named network namespace, in which the socket stays.
func Listen(netns, address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		err := inNetNS(netns, func() { r.listener, r.err = net.Listen("tcp4", address) })
		done <- result{r.listener, errors.Join(err, r.err)}
	}()
	r := <-done
	return r.listener, r.err
}

// inNetNS calls do on a thread that has entered the named network namespace.
func inNetNS(name string, do func()) error {
	target, err := os.Open(netnsDir + name)
	if err != nil {
		return fmt.Errorf("opening network namespace %q: %w", name, err)
	}
	defer func() { _ = target.Close() }()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening this thread's network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering network namespace %q: %w", name, err)
	}
	do()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked, so nothing else runs on it.
		return fmt.Errorf("returning from network namespace %q: %w", name, err)
	}
	runtime.UnlockOSThread()
	return nil
}

// ip runs ip(8) in the namespace that the test runs in; first arguments "-n NAME" select another.
func ip(ctx context.Context, args ...string) error {
	_, err := output(exec.CommandContext(ctx, "ip", args...))
	return err
}
