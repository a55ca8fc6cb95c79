package containerd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/runtime/podnet"
	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// insideEnv marks the copy of the test program that runs in namespaces of its own.
const insideEnv = "NODEAGENT_TEST_INSIDE"

// cgroupEnv names the parent cgroup of the copy's containers.
const cgroupEnv = "NODEAGENT_TEST_CGROUP"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(inside(m))
	}
	if os.Getuid() != 0 {
		fmt.Println("skipped: these tests need root")
		os.Exit(0)
	}
	os.Exit(outside())
}

// outside builds the programs, then runs this test program again as process 1 of its own
// namespaces: when it ends, the kernel ends containerd, shims and containers, and unmounts
// everything.
func outside() int {
	b, err := tools.New(os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	paths, err := b.Build(ctx, append(tools.Node(), "registry")...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scratch, err := bed.NewScratch(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := scratch.Remove(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	dir := scratch.Dir()
	pump := filepath.Join(dir, "nodeagent-pump")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", pump, "github.com/nodeagent/nodeagent/cmd/nodeagent-pump")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the pump: %v\n%s", err, out)
		return 1
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.Env = append(os.Environ(), insideEnv+"="+dir, cgroupEnv+"=/"+scratch.Cgroup(), "PATH="+paths.SearchPath()+":"+os.Getenv("PATH"), "CNI_BIN="+paths.CNIDir())
	self.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := self.Run(); err != nil {
		return 1
	}
	return 0
}

func inside(m *testing.M) int {
	must(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	must(syscall.Mount("proc", "/proc", "proc", 0, ""))
	must(os.MkdirAll("/run/containerd", 0o711))
	// shims have their sockets there, whatever containerd's folders
	must(syscall.Mount("tmpfs", "/run/containerd", "tmpfs", 0, ""))
	must(exec.Command("ip", "link", "set", "lo", "up").Run())
	signal.Ignore(syscall.SIGPIPE)
	return m.Run()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// host is a containerd with everything that an agent needs beside it, below one folder.
type host struct {
	testing.TB
	dir, cgroup string
	number      int
	progress    time.Duration // of pulls, as imagePullProgressDeadline
	selinux     containerd.SELinux
	daemon      *exec.Cmd
	agent       *agent
	daemonDone  chan struct{}
}

// agent is one instance of the runtime: one run of the agent.
type agent struct {
	*containerd.Runtime
	pump *logpump.Client
	net  *podnet.Network
	stop func()
}

var hosts atomic.Int64 // numbers the tests' networks

// newHost starts a containerd.
func newHost(t testing.TB) *host {
	t.Helper()
	base := os.Getenv(insideEnv)
	dir, err := os.MkdirTemp(base, "h")
	must(err)
	n := int(hosts.Add(1))
	h := &host{TB: t, dir: dir, number: n, cgroup: fmt.Sprintf("%s/%d", os.Getenv(cgroupEnv), n)}
	h.write("config.toml", fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, h.path("root"), h.path("state"), h.socket(), h.socket()+".ttrpc"))
	h.writeCNI()
	h.startDaemon()
	t.Cleanup(h.close)
	h.importImage()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }
func (h *host) socket() string          { return h.path("c.sock") }

func (h *host) write(name, text string) {
	must(os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
	must(os.WriteFile(h.path(name), []byte(text), 0o644))
}

func (h *host) writeCNI() {
	h.write("net.d/10-test.conflist", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "test%d", "plugins": [
		{"type": "bridge", "bridge": "br%d", "isGateway": true, "ipMasq": false,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.%d.0/24"}]]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`, h.number, h.number, h.path("ipam"), h.number))
}

func (h *host) startDaemon() {
	h.Helper()
	log, err := os.OpenFile(h.path("containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(err)
	defer log.Close()
	h.daemon = exec.Command("containerd", "--config", h.path("config.toml"), "--log-level", "info")
	h.daemon.Stdout, h.daemon.Stderr = log, log
	must(h.daemon.Start())
	h.daemonDone = make(chan struct{})
	go func(d *exec.Cmd, exited chan struct{}) { d.Wait(); close(exited) }(h.daemon, h.daemonDone)
	for began := time.Now(); time.Since(began) < patience; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", h.socket()); err == nil {
			c.Close()
			return
		}
	}
	h.dumpLog()
	h.Fatal("containerd does not start")
}

func (h *host) dumpLog() {
	b, _ := os.ReadFile(h.path("containerd.log"))
	h.Logf("containerd's log:\n%s", b[max(0, len(b)-8000):])
}

// killDaemon kills containerd with SIGKILL.
func (h *host) killDaemon() {
	h.daemon.Process.Kill()
	<-h.daemonDone
}

func (h *host) ctr(args ...string) string {
	h.Helper()
	out, err := exec.Command("ctr", append([]string{"--address", h.socket(), "-n", "k8s.io"}, args...)...).Output()
	if err != nil {
		h.Fatalf("ctr %v: %v", args, err)
	}
	return string(out)
}

// start starts an agent's runtime.
func (h *host) start() *agent {
	h.Helper()
	logger := slog.New(slog.NewTextHandler(h.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	if testing.Verbose() == false {
		logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	program := filepath.Join(os.Getenv(insideEnv), "nodeagent-pump")
	pump, err := logpump.New(logpump.Config{Program: program, Socket: h.path("run/pump.sock"), MaxSize: 10 << 20, MaxFiles: 5, Logger: logger})
	must(err)
	pods, err := podnet.New(podnet.Config{
		ConfDir: h.path("net.d"), BinDirs: []string{os.Getenv("CNI_BIN"), h.path("bin")}, CacheDir: h.path("cni"), Logger: logger, Now: time.Now,
	})
	must(err)
	r, err := containerd.New(containerd.Config{
		Address: h.socket(), StateDir: h.path("nodeagent"), RunDir: h.path("run"), LogLinkDir: h.path("links"), CertsDir: h.path("certs.d"),
		Handlers: map[string]containerd.Handler{"": {Root: h.path("runc")}},
		Reaper:   program, Network: pods, Pump: pump, Logger: logger, Now: time.Now, PullProgressDeadline: h.progress, SELinux: h.selinux,
	})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { must(r.Run(ctx)); done <- struct{}{} }()
	go func() { must(pump.Run(ctx)); done <- struct{}{} }()
	h.agent = &agent{Runtime: r, pump: pump, net: pods, stop: func() { cancel(); <-done; <-done }}
	return h.agent
}

func (h *host) restart() *agent {
	h.agent.stop()
	return h.start()
}

// close removes every pod, so that no process of the test outlives it, then containerd.
func (h *host) close() {
	if h.agent != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		pods, err := h.agent.List(ctx)
		if err != nil {
			h.Errorf("listing remaining pods: %v", err)
		}
		for _, p := range pods {
			for _, c := range p.Containers {
				if err := h.agent.RemoveContainer(ctx, c.ID); err != nil {
					h.Errorf("cleaning up: %v", err)
				}
			}
			if err := h.agent.RemoveSandbox(ctx, p.UID); err != nil {
				h.Errorf("cleaning up: %v", err)
			}
		}
		h.nothingLeft()
		h.agent.stop()
	}
	if h.Failed() {
		h.dumpLog()
	}
	h.killDaemon()
}

// nothingLeft checks that removed pods leave nothing behind.
func (h *host) nothingLeft() {
	h.Helper()
	for _, what := range [][]string{{"containers", "ls", "-q"}, {"tasks", "ls", "-q"}} {
		if left := strings.TrimSpace(h.ctr(what...)); left != "" {
			h.Errorf("left of %v: %s", what, left)
		}
	}
	snapshots := h.ctr("snapshots", "ls")
	for line := range strings.Lines(snapshots) {
		// snapshots of an interrupted unpack, which a lease removes later
		if (strings.Contains(line, "Active") || strings.Contains(line, "View")) && !strings.HasPrefix(line, "extract-") {
			h.Errorf("left: snapshot %s", line)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, h.dir) {
			h.Errorf("left: mount %s", line)
		}
	}
	for _, dir := range []string{"run/pods", "run/io", "run/exec", "nodeagent/sandboxes", "links"} {
		if entries, _ := os.ReadDir(h.path(dir)); len(entries) > 0 {
			h.Errorf("left: %s/%s", dir, entries[0].Name())
		}
	}
}

// spec is a small hand-made spec: the product's own specs are tested elsewhere.
func (h *host) spec(s runtime.Sandbox, args ...string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"}
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{CgroupsPath: filepath.Join(h.cgroup, rand()), Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
	}
	pid := specs.LinuxNamespace{Type: specs.PIDNamespace, Path: s.Namespaces.PID}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, pid)
	for kind, path := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: s.Namespaces.Net, specs.IPCNamespace: s.Namespaces.IPC, specs.UTSNamespace: s.Namespaces.UTS,
	} {
		if path != "" {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	return spec
}

func rand() string {
	return fmt.Sprintf("c%d", hosts.Add(1))
}
