package containerd

import (
	"bytes"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/runtime/stack"
)

// built is a container as the agent makes it, with ocispec's spec.
func (h *host) built(s runtime.Sandbox, ref runtime.PodRef, c corev1.Container, image imagespec.ImageConfig) runtime.ContainerConfig {
	h.Helper()
	node, _, err := stack.Machine()
	must(err)
	config := h.config(ref, s, c.Name, "none")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: ref.Name, Namespace: ref.Namespace, UID: ref.UID}}
	in := ocispec.Input{
		Pod: pod, Container: &c, ID: config.ID(), SandboxID: s.ID, Image: image, Namespaces: s.Namespaces, Node: node,
		CgroupsPath: filepath.Join(h.cgroup, rand()), VolumeDir: h.agent.VolumeDir(config.ID()),
		Seccomp: ocispec.Seccomp{RuntimeDefault: stack.DefaultSeccomp},
	}
	if sc := c.SecurityContext; sc != nil && sc.RunAsUser != nil {
		in.User = runtime.User{UID: uint32(*sc.RunAsUser), GID: uint32(*sc.RunAsUser)}
	}
	if config.Spec, err = ocispec.Build(in); err != nil {
		h.Fatal(err)
	}
	config.ImageVolumes, config.TTY = ocispec.ImageVolumes(in), c.TTY
	return config
}

func sleeper(name string, sc corev1.SecurityContext) corev1.Container {
	return corev1.Container{Name: name, Command: []string{"/bin/sleep", "1000"}, SecurityContext: &sc}
}

// TestSysIsWritableForThePrivilegedAlone, in whichever order they start, although the containers of
// a pod share one sysfs.
func TestSysIsWritableForThePrivilegedAlone(t *testing.T) {
	h := newHost(t)
	h.start()
	yes := true
	confined := sleeper("confined", corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}})
	privileged := sleeper("privileged", corev1.SecurityContext{Privileged: &yes})
	const file = "/sys/class/net/lo/tx_queue_len" // of the pod's own network
	for i, order := range [][]corev1.Container{{confined, privileged}, {privileged, confined}} {
		ref := podRef(i + 1)
		s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
		ids := map[string]string{}
		for _, c := range order {
			ids[c.Name] = h.run(h.built(s, ref, c, imagespec.ImageConfig{Env: []string{"PATH=/bin"}})).ID
		}
		if got := h.exec(ids["privileged"], "sh", "-c", "echo 77 > "+file+" && cat "+file); got != "77" {
			t.Errorf("order %d: the privileged container reads back %q", i, got)
		}
		got := h.exec(ids["confined"], "sh", "-c", "(echo 78 > "+file+") 2>&1; cat "+file)
		if !strings.Contains(got, "Read-only file system") || !strings.HasSuffix(got, "77") {
			t.Errorf("order %d: the confined container says %q", i, got)
		}
	}
}

// TestNonRootTakesAnyPortAndPings, without a capability, as CRI lets it; the pod's own sysctl says
// otherwise.
func TestNonRootTakesAnyPortAndPings(t *testing.T) {
	h := newHost(t)
	h.start()
	user := int64(1000)
	sc := corev1.SecurityContext{RunAsUser: &user, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	open := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	for i, c := range []struct {
		sysctls map[string]string
		ok      bool
	}{{open, true}, {map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"}, false}} {
		ref := podRef(i + 1)
		s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h", Sysctls: c.sysctls})
		id := h.run(h.built(s, ref, sleeper("c", sc), imagespec.ImageConfig{Env: []string{"PATH=/bin"}})).ID
		tries := map[bool]string{true: "600", false: "5"}[c.ok] // until the listener is there
		got := h.exec(id, "sh", "-c", "id -u; (nc -l -p 80 & i=0; "+
			"until echo hi | nc 127.0.0.1 80 2>/dev/null || [ $i -ge "+tries+" ]; do i=$((i+1)); sleep 0.1; done; wait) 2>&1")
		if !strings.HasPrefix(got, "1000") || strings.HasSuffix(got, "\nhi") != c.ok {
			t.Errorf("with %v: %s", c.sysctls, got)
		}
		if err := pingSocket(s.Namespaces.Net, 1000); (err == nil) != c.ok {
			t.Errorf("with %v: a socket for pings: %v", c.sysctls, err)
		}
	}
}

// pingSocket opens the socket that ping needs, as a user in a network namespace.
func pingSocket(netns string, user int) error {
	failed := make(chan error)
	go func() {
		goruntime.LockOSThread() // never unlocked: no other goroutine may use the thread
		failed <- func() error {
			fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			// of this thread alone
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
				if _, _, errno := unix.RawSyscall(call, uintptr(user), uintptr(user), uintptr(user)); errno != 0 {
					return errno
				}
			}
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
			if err == nil {
				unix.Close(s)
			}
			return err
		}()
	}()
	return <-failed
}

// TestATerminalHasATerm: programs on a terminal ask TERM what it can do.
func TestATerminalHasATerm(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	id := h.run(h.built(s, ref, sleeper("c", corev1.SecurityContext{}), imagespec.ImageConfig{Env: []string{"PATH=/bin", "TERM=dumb"}})).ID
	for _, tty := range []bool{true, false} {
		want := map[bool]string{true: "xterm", false: "dumb"}[tty]
		var out bytes.Buffer
		code, err := h.agent.Exec(t.Context(), id, runtime.ExecConfig{
			Command: []string{"sh", "-c", "echo $TERM"}, IO: runtime.IO{Stdout: &out, TTY: tty},
		})
		if err != nil || code != 0 || strings.TrimSpace(out.String()) != want {
			t.Errorf("terminal %v: TERM is %q, want %q (code %d, %v)", tty, out.String(), want, code, err)
		}
	}
	if got := h.exec(id, "cat", "/proc/1/environ"); !strings.Contains(got, "TERM=dumb") {
		t.Errorf("the container's own environment is %q", got)
	}
}

// TestImageVolumes: each container has its own writable copy of the image's content, which counts
// as its disk usage and is removed with it.
func TestImageVolumes(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	image := imagespec.ImageConfig{Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{"/etc": {}, "/new/place": {}, "/way/out": {}}}
	yes := true
	first, second := sleeper("first", corev1.SecurityContext{ReadOnlyRootFilesystem: &yes}), sleeper("second", corev1.SecurityContext{})
	one := h.built(s, ref, first, image)
	a := h.run(one).ID
	b := h.run(h.built(s, ref, second, image)).ID
	h.exec(a, "sh", "-c", "dd if=/dev/zero of=/new/place/big bs=1024 count=2048 2>/dev/null && echo x > /etc/added && rm /etc/group")
	if got := h.exec(b, "sh", "-c", "ls /etc /new/place; cat /etc/passwd"); strings.Contains(got, "added") || !strings.Contains(got, "group") || !strings.Contains(got, "app:x:1000") {
		t.Errorf("the second container sees %q", got)
	}
	if used, err := h.agent.WritableBytes(t.Context(), a); err != nil || used < 2<<20 {
		t.Errorf("%d bytes are counted, want over 2 MiB (%v)", used, err)
	}
	// A second start, as after a crash half way, leaves the volumes alone.
	if again := h.run(one); again.ID != a {
		t.Errorf("got %s, want %s", again.ID, a)
	}
	dir := h.agent.VolumeDir(a)
	if left, err := filepath.Glob(dir + "*"); err != nil || len(left) != 1 {
		t.Errorf("folders %v, %v", left, err)
	}
	must(os.MkdirAll(dir+".part/0", 0o755)) // as a crash in the middle leaves it
	must(h.agent.RemoveContainer(t.Context(), a))
	if left, err := filepath.Glob(dir + "*"); err != nil || len(left) > 0 {
		t.Errorf("the removed container's volumes: %v, %v", left, err)
	}
}

// TestTheStopSignalStaysWithTheContainer, even for a later agent, and if the image loses its names.
func TestTheStopSignalStaysWithTheContainer(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	config := h.config(ref, h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"}), "c", "sleep", "1000")
	config.StopSignal = "SIGQUIT"
	h.run(config)
	h.ctr("images", "rm", fullName)
	h.restart()
	if c := h.get(ref.UID).Latest("c"); c == nil || c.StopSignal != "SIGQUIT" {
		t.Errorf("got %+v", c)
	}
	must(h.agent.Signal(t.Context(), config.ID(), syscall.SIGKILL))
}

// TestGarbageCollectionBesideCreation: a garbage collection at any moment breaks no reading of an
// image, and nothing is left.
func TestGarbageCollectionBesideCreation(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ { // each synchronous removal is a collection
			select {
			case <-stop:
				return
			default:
			}
			name := "docker.io/nodeagent-test/gone:" + strconv.Itoa(i)
			h.ctr("images", "tag", fullName, name)
			h.ctr("images", "rm", "--sync", name)
		}
	}()
	for i := range 8 {
		config := h.built(s, ref, sleeper("c"+strconv.Itoa(i), corev1.SecurityContext{}), imagespec.ImageConfig{
			Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{"/etc": {}},
		})
		c, err := h.agent.StartContainer(t.Context(), config)
		if err != nil || c.State != runtime.Running {
			t.Errorf("container %d: %+v, %v", i, c, err)
			continue
		}
		must(h.agent.RemoveContainer(t.Context(), c.ID))
	}
	close(stop)
	<-done
	if leases := h.ctr("leases", "ls", "-q"); strings.TrimSpace(leases) != "" {
		t.Errorf("leases are left: %s", leases)
	}
}

// levels stand in for a machine's SELinux: they count who has which level.
type levels struct{ taken map[string]int }

func (l *levels) Labels(o runtime.SELinuxOptions) (runtime.SELinuxLabels, error) {
	made := runtime.SELinuxLabels{Process: o.Type + ":" + strconv.Itoa(len(l.taken)), Mount: "files"}
	l.Reserve(made)
	return made, nil
}
func (l *levels) Reserve(made runtime.SELinuxLabels) { l.taken[made.Process]++ }
func (l *levels) Release(made runtime.SELinuxLabels) { delete(l.taken, made.Process) }
func (l *levels) Relabel(string, string) error       { return nil }

// TestLabelsOfASandboxAreKept: a later agent knows them, and gives them to no other pod until the
// sandbox is removed.
func TestLabelsOfASandboxAreKept(t *testing.T) {
	h := newHost(t)
	first, later := &levels{map[string]int{}}, &levels{map[string]int{}}
	h.selinux = first
	h.start()
	ref := podRef(1)
	want := runtime.SELinuxLabels{Process: "spc_t:0", Mount: "files"}
	if s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h", SELinux: runtime.SELinuxOptions{Type: "spc_t"}}); s.SELinux != want {
		t.Errorf("labels %+v", s.SELinux)
	}
	h.selinux = later
	h.restart()
	if s := h.get(ref.UID).Sandbox; s == nil || s.SELinux != want || later.taken[want.Process] != 1 {
		t.Errorf("after a restart: %+v, reserved %v", s, later.taken)
	}
	must(h.agent.RemoveSandbox(t.Context(), ref.UID))
	if len(later.taken) > 0 {
		t.Errorf("still reserved: %v", later.taken)
	}
}
