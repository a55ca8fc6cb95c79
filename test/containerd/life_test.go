package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
)

func podRef(n int) runtime.PodRef {
	return runtime.PodRef{UID: types.UID(fmt.Sprintf("11111111-0000-4000-8000-%012d", n)), Namespace: "ns", Name: fmt.Sprintf("p%d", n)}
}

func (h *host) sandbox(c runtime.SandboxConfig) runtime.Sandbox {
	h.Helper()
	s, err := h.agent.StartSandbox(h.Context(), c)
	if err != nil {
		h.Fatal(err)
	}
	return s
}

func (h *host) config(ref runtime.PodRef, s runtime.Sandbox, name string, args ...string) runtime.ContainerConfig {
	h.Helper()
	img, err := h.agent.Image(h.Context(), testImage)
	if err != nil {
		h.Fatal(err)
	}
	return runtime.ContainerConfig{
		Pod: ref, Name: name, Image: img, ImageRef: testImage, Spec: h.spec(s, args...), SandboxID: s.ID,
		LogPath: h.path(fmt.Sprintf("logs/%s/%s/0.log", ref.UID, name)),
	}
}

func (h *host) run(c runtime.ContainerConfig) runtime.Container {
	h.Helper()
	got, err := h.agent.StartContainer(h.Context(), c)
	if err != nil {
		h.Fatal(err)
	}
	if got.State != runtime.Running {
		h.Fatalf("container %q: %+v", c.Name, got)
	}
	return got
}

// pod starts a sandbox with one container.
func (h *host) pod(n int, args ...string) (runtime.PodRef, runtime.Container) {
	h.Helper()
	ref := podRef(n)
	return ref, h.run(h.config(ref, h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: ref.Name}), "c", args...))
}

func (h *host) get(uid types.UID) runtime.Pod {
	h.Helper()
	p, err := h.agent.Get(h.Context(), uid)
	if err != nil {
		h.Fatal(err)
	}
	return p
}

// patience is far more than anything here takes, so that a busy machine fails no test.
const patience = time.Minute

// until polls until ok returns true.
func (h *host) until(what string, ok func() bool) {
	h.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			h.Fatalf("after %s not yet: %s", patience, what)
		}
	}
}

func (h *host) exited(ref runtime.PodRef, name string) runtime.Container {
	h.Helper()
	h.until(name+" exits", func() bool {
		c := h.get(ref.UID).Latest(name)
		return c != nil && c.State == runtime.Exited
	})
	return *h.get(ref.UID).Latest(name)
}

func (h *host) exec(id string, args ...string) string {
	h.Helper()
	var out bytes.Buffer
	code, err := h.agent.Exec(h.Context(), id, runtime.ExecConfig{Command: args, IO: runtime.IO{Stdout: &out, Stderr: &out}})
	if err != nil || code != 0 {
		h.Fatalf("%v: code %d, %v, %s", args, code, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func TestTheSandboxIsWhatItWasAskedToBe(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "hello", Sysctls: map[string]string{
		"net.ipv4.ip_local_port_range": "2000 3000", "kernel.shm_rmid_forced": "1", "net/ipv4/conf/eth0/rp_filter": "2",
	}})
	c := h.run(h.config(ref, s, "c", "sleep", "1000"))
	if got := h.exec(c.ID, "hostname"); got != "hello" {
		t.Errorf("hostname %q", got)
	}
	if got := h.exec(c.ID, "cat", "/proc/sys/net/ipv4/ip_local_port_range"); strings.Join(strings.Fields(got), " ") != "2000 3000" {
		t.Errorf("port range %q", got)
	}
	if got := h.exec(c.ID, "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter"); got != "2" {
		t.Errorf("the interface's own parameter is %q", got)
	}
	if got := h.exec(c.ID, "cat", "/proc/sys/kernel/shm_rmid_forced"); got != "1" {
		t.Errorf("shm_rmid_forced %q", got)
	}
	if here, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced"); string(here) != "0\n" {
		t.Errorf("the host's shm_rmid_forced is %q", here)
	}
	if got := h.exec(c.ID, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(got, s.IPs[0].String()+"/") {
		t.Errorf("eth0 has %q, want %v", got, s.IPs)
	}
	if got := h.exec(c.ID, "ip", "link", "show", "lo"); !strings.Contains(got, "UP") {
		t.Errorf("lo is %q", got)
	}
	for _, bad := range []runtime.SandboxConfig{
		{Sysctls: map[string]string{"vm.swappiness": "1"}},
		{Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, HostNetwork: true},
		{Sysctls: map[string]string{"kernel.shmmax": "1"}, HostIPC: true},
		{Sysctls: map[string]string{"net/../vm/swappiness": "1"}},
	} {
		bad.Pod = podRef(9)
		if _, err := h.agent.StartSandbox(t.Context(), bad); err == nil {
			t.Errorf("%v was set", bad.Sysctls)
		}
	}
	if p := h.get(podRef(9).UID); !p.Empty() {
		t.Errorf("a refused sandbox leaves %+v", p)
	}
}

func TestASharedPIDNamespaceIsReaped(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h", ShareProcessNamespace: true, CgroupParent: h.cgroup})
	a := h.run(h.config(ref, s, "a", "sh", "-c", "sleep 0.2 & exec sleep 1000"))
	b := h.run(h.config(ref, s, "b", "sleep", "1000"))
	// A shell between fork and exec shows its command a second time.
	h.until("both containers see the processes of both, and the reaper", func() bool {
		ps := h.exec(b.ID, "ps")
		return strings.Count(ps, "sleep 1000") == 2 && strings.Contains(ps, "reap")
	})
	// An orphan of an exec becomes a child of process 1, which must reap it.
	h.exec(a.ID, "sh", "-c", "(sleep 0.123 &) ; true")
	h.until("the orphan is reaped", func() bool {
		for line := range strings.Lines(h.exec(b.ID, "ps", "-o", "pid,ppid,stat,args")) {
			if f := strings.Fields(line); len(f) > 3 && f[1] == "1" && (strings.HasPrefix(f[2], "Z") || strings.Contains(line, "sleep 0.123")) {
				return false
			}
		}
		return true
	})
	h.restart()
	if p := h.get(ref.UID); !p.Sandbox.Ready || len(p.Containers) != 2 {
		t.Errorf("after a restart of the agent: %+v", p)
	}
	// Without its first process the namespace is dead, and so is the sandbox.
	h.ctr("tasks", "kill", "-s", "SIGKILL", s.ID)
	h.until("the sandbox is not ready", func() bool { return !h.get(ref.UID).Sandbox.Ready })
}

// TestContainerdIsKilled: whatever happens while containerd is down is known once it is back.
func TestContainerdIsKilled(t *testing.T) {
	h := newHost(t)
	h.start()
	var refs []runtime.PodRef
	var pids []int
	for n := range 4 {
		ref, c := h.pod(n, "sh", "-c", "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.01; done")
		refs, pids = append(refs, ref), append(pids, c.Pid)
	}
	hints, err := h.agent.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := h.config(refs[0], *h.get(refs[0].UID).Sandbox, "new", "true")
	h.killDaemon()
	h.until("watchers are told", func() bool {
		select {
		case _, open := <-hints:
			return !open
		default:
			return false
		}
	})
	if err := h.agent.Ready(t.Context()); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("ready without containerd: %v", err)
	}
	if _, err := h.agent.StartContainer(t.Context(), other); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("starting without containerd: %v", err)
	}
	// One exits while nobody listens.
	if err := syscall.Kill(pids[3], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	h.startDaemon()
	h.until("ready again", func() bool { return h.agent.Ready(t.Context()) == nil })
	if c := h.exited(refs[3], "c"); c.ExitCode != 137 {
		t.Errorf("what ended meanwhile: %+v", c)
	}
	for i, ref := range refs[:3] {
		if c := h.get(ref.UID).Latest("c"); c == nil || c.State != runtime.Running || c.Pid != pids[i] {
			t.Errorf("%s: %+v, want pid %d running", ref.Name, c, pids[i])
		}
		if err := h.agent.Signal(t.Context(), runtime.ContainerID(ref.UID, "c", 0), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		h.exited(ref, "c")
		h.countingLog(h.path(fmt.Sprintf("logs/%s/c/0.log", ref.UID)))
	}
	ref, c := h.pod(7, "sleep", "1000") // and life goes on
	if h.exec(c.ID, "true") != "" || h.get(ref.UID).Sandbox == nil {
		t.Error("no new pod")
	}
}

// countingLog checks that "line 0", "line 1" … follow each other without a gap.
func (h *host) countingLog(path string) {
	h.Helper()
	var b bytes.Buffer
	if err := logpump.Read(h.Context(), path, runtime.LogOptions{}, &b, &b); err != nil {
		h.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) < 5 {
		h.Errorf("only %d lines in %s", len(lines), path)
	}
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i) {
			h.Errorf("line %d of %s is %q", i, path, line)
			return
		}
	}
}

func TestAShimIsKilled(t *testing.T) {
	h := newHost(t)
	h.start()
	ref, c := h.pod(1, "sleep", "1000")
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var shim int
	fmt.Sscan(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))[1], &shim)
	syscall.Kill(shim, syscall.SIGKILL)
	if end := h.exited(ref, "c"); end.ExitCode != 137 && end.ExitCode != 255 {
		t.Errorf("got %+v", end)
	}
}

func TestHalfMadeContainersAreAdoptedOrRemoved(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	config := h.config(ref, s, "c", "sleep", "1000")
	for i := range 8 { // wherever the cut falls
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*12)*time.Millisecond)
		h.agent.StartContainer(ctx, config)
		cancel()
		if i%2 == 1 {
			h.restart()
		}
	}
	c := h.run(config)
	if got := h.exec(c.ID, "echo", "ok"); got != "ok" {
		t.Errorf("got %q", got)
	}
}

func TestOOMIsTold(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	config := h.config(ref, h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"}), "c", "sh", "-c", "x=a; while true; do x=$x$x; done")
	limit := int64(24 << 20)
	config.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	h.run(config)
	if c := h.exited(ref, "c"); !c.OOMKilled || c.ExitCode != 137 {
		t.Errorf("got %+v, want OOMKilled and 137", c)
	}
}

func TestTerminals(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 123, Height: 45}
	var out bytes.Buffer
	input, send := io.Pipe()
	go io.WriteString(send, awaitSize(45, 123)+"exit 3\n")
	code, err := h.agent.Exec(t.Context(), c.ID, runtime.ExecConfig{Command: []string{"sh"}, IO: runtime.IO{
		Stdin: input, Stdout: &out, TTY: true, Resize: sizes,
	}})
	if err != nil || code != 3 || !strings.Contains(out.String(), "rows=45 columns=123") {
		t.Errorf("code %d, %v, output %q", code, err, out.String())
	}
	ref := podRef(2)
	config := h.config(ref, h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"}), "c", "sh")
	config.TTY, config.Stdin, config.Spec.Process.Terminal = true, true, true
	main := h.run(config)
	input2, send2 := io.Pipe()
	var screen bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- h.agent.Attach(t.Context(), main.ID, runtime.IO{Stdin: input2, Stdout: &screen, TTY: true, Resize: sizes})
	}()
	sizes <- runtime.TerminalSize{Width: 99, Height: 11}
	io.WriteString(send2, awaitSize(11, 99)+"exit\n")
	if err := <-ended; err != nil || !strings.Contains(screen.String(), "rows=11 columns=99") {
		t.Errorf("attach: %v, %q", err, screen.String())
	}
}

// awaitSize is a shell command that waits until its terminal has a size, for a minute at the most,
// and prints the size in a form that the command's own echo does not have.
func awaitSize(rows, columns int) string {
	return fmt.Sprintf(`i=0; until [ "$(stty size)" = "%d %d" ] || [ $i -ge 600 ]; do i=$((i+1)); sleep 0.1; done; `, rows, columns) +
		`set -- $(stty size); echo rows=$1 columns=$2; `
}

func TestExecsOfADeadAgentAreEnded(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go h.agent.Exec(ctx, c.ID, runtime.ExecConfig{Command: []string{"sleep", "12345"}})
	h.until("it runs", func() bool { return strings.Contains(h.exec(c.ID, "ps"), "sleep 12345") })
	// nothing has cancelled the old instance's exec, so it is like one that a crash left
	h.restart()
	h.until("it is ended", func() bool { return !strings.Contains(h.exec(c.ID, "ps"), "sleep 12345") })
}

func TestARebootedHost(t *testing.T) {
	h := newHost(t)
	h.start()
	ref, _ := h.pod(1, "sleep", "1000")
	before := h.get(ref.UID)
	h.until("its start is recorded", func() bool {
		return strings.Contains(h.ctr("containers", "info", before.Containers[0].ID), "started-at")
	})
	h.agent.stop()
	// What a reboot does: processes end; mounts and tmpfs are gone.
	h.ctr("tasks", "kill", "-s", "SIGKILL", before.Containers[0].ID)
	h.until("its task has stopped", func() bool { return strings.Contains(h.ctr("tasks", "ls"), "STOPPED") })
	h.ctr("tasks", "rm", before.Containers[0].ID)
	for _, ns := range []string{"net", "ipc", "uts"} {
		must(syscall.Unmount(filepath.Join(h.path("run/pods"), string(ref.UID), ns), 0))
	}
	must(os.RemoveAll(h.path("run/pods")))
	must(os.RemoveAll(h.path("run/io")))
	h.start()
	if c := h.exited(ref, "c"); c.ExitCode != 255 || c.StartedAt.IsZero() {
		t.Errorf("got %+v, want an end with 255", c)
	}
	if p := h.get(ref.UID); p.Sandbox == nil || p.Sandbox.Ready {
		t.Fatalf("the sandbox is %+v, want it known and not ready", p.Sandbox)
	}
	if err := h.agent.RemoveSandbox(t.Context(), ref.UID); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(h.path("ipam/*/10.88*")); len(left) > 0 {
		t.Errorf("addresses still taken: %v", left)
	}
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Attempt: 1, Hostname: "h"})
	next := h.config(ref, s, "c", "sleep", "1000")
	next.Attempt = 1
	h.run(next)
}

func TestShimsAreSharedAndEnd(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	for _, name := range []string{"a", "b", "c"} {
		h.run(h.config(ref, s, name, "sleep", "1000"))
	}
	if n := h.shims(); n != 1 {
		t.Errorf("%d shims for a pod of three containers, want 1", n)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := h.agent.Signal(t.Context(), runtime.ContainerID(ref.UID, name, 0), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	h.until("the shim ends with the last container", func() bool { return h.shims() == 0 })
	// Restarts at the moment when the shim exits.
	for attempt := 1; attempt < 8; attempt++ {
		config := h.config(ref, s, "a", "sleep", "0.05")
		config.Attempt = attempt
		// It may have exited by the time that this returns.
		if c, err := h.agent.StartContainer(t.Context(), config); err != nil || c.StartError != "" {
			t.Fatalf("attempt %d: %+v, %v", attempt, c, err)
		}
		h.until("exit", func() bool { return h.get(ref.UID).Latest("a").State == runtime.Exited })
	}
}

// shims counts the shims of this containerd.
func (h *host) shims() int {
	n := 0
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range dirs {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), "containerd-shim-runc-v2") && strings.Contains(string(b), h.socket()) && !strings.Contains(string(b), "\x00start") {
			n++
		}
	}
	return n
}

func TestStartTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("figures for people")
	}
	h := newHost(t)
	h.start()
	h.pod(0, "sleep", "1000") // unpacks the image, warms caches
	var sandboxes, containers, removals []time.Duration
	for n := 1; n <= 20; n++ {
		ref := podRef(n)
		began := time.Now()
		s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: ref.Name})
		sandboxes = append(sandboxes, time.Since(began))
		config := h.config(ref, s, "c", "sleep", "1000")
		began = time.Now()
		h.run(config)
		containers = append(containers, time.Since(began))
		began = time.Now()
		if err := h.agent.RemoveContainer(t.Context(), config.ID()); err != nil {
			t.Fatal(err)
		}
		if err := h.agent.RemoveSandbox(t.Context(), ref.UID); err != nil {
			t.Fatal(err)
		}
		removals = append(removals, time.Since(began))
	}
	for _, d := range [][]time.Duration{sandboxes, containers, removals} {
		slices.Sort(d)
	}
	t.Logf("p50 (and max) of 20: sandbox %v (%v), container %v (%v), removal %v (%v)",
		sandboxes[10], sandboxes[19], containers[10], containers[19], removals[10], removals[19])
}

// TestAddressesOfACutOffStart: an agent dies during CNI's ADD, and DEL fails for a while; the next
// agent still releases host-local's address.
func TestAddressesOfACutOffStart(t *testing.T) {
	h := newHost(t)
	h.write("net.d/10-test.conflist", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "test%d", "plugins": [
		{"type": "bridge", "bridge": "br%d", "isGateway": true,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.%d.0/24"}]]}},
		{"type": "last"}]}`, h.number, h.number, h.path("ipam"), h.number))
	h.write("bin/last", `#!/bin/sh
d=$(dirname "$0")
cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then sleep 1000; fi
if [ "$CNI_COMMAND" = DEL ] && [ ! -e "$d/mended" ]; then echo '{"cniVersion":"1.0.0","code":50,"msg":"not yet"}'; exit 1; fi
`)
	must(os.Chmod(h.path("bin/last"), 0o755))
	addresses := func() []string {
		all, err := filepath.Glob(h.path(fmt.Sprintf("ipam/test%d/10.88.*", h.number)))
		must(err)
		return all
	}
	h.start()
	ref := podRef(1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.agent.StartSandbox(ctx, runtime.SandboxConfig{Pod: ref, Hostname: "h"})
		done <- err
	}()
	h.until("an address is taken", func() bool { return len(addresses()) == 1 })
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("a start that is cut off: %v", err)
	}
	h.restart()
	if p := h.get(ref.UID); p.Sandbox == nil || p.Sandbox.Ready {
		t.Fatalf("the next agent knows of %+v", p)
	}
	if err := h.agent.RemoveSandbox(t.Context(), ref.UID); err == nil || h.get(ref.UID).Sandbox == nil {
		t.Errorf("a sandbox whose DEL fails is gone: %v", err)
	}
	h.write("bin/mended", "")
	if err := h.agent.RemoveSandbox(t.Context(), ref.UID); err != nil {
		t.Error(err)
	}
	if left := addresses(); len(left) > 0 {
		t.Errorf("addresses are left: %v", left)
	}
}

// TestContainerdHangs stops containerd as a hung disk would: nothing waits for ever and nothing is
// lost.
func TestContainerdHangs(t *testing.T) {
	h := newHost(t)
	h.start()
	ref, c := h.pod(1, "sleep", "1000")
	must(h.daemon.Process.Signal(syscall.SIGSTOP))
	var err error
	h.until("that is noticed", func() bool { err = h.agent.Ready(t.Context()); return err != nil })
	if !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), "is not healthy") {
		t.Errorf("ready: %v", err)
	}
	must(h.daemon.Process.Signal(syscall.SIGCONT))
	h.until("ready again", func() bool { return h.agent.Ready(t.Context()) == nil })
	if got := h.get(ref.UID).Latest("c"); got.State != runtime.Running || got.Pid != c.Pid {
		t.Errorf("the container that ran: %+v", got)
	}
}
