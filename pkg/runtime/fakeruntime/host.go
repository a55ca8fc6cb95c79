// Package fakeruntime is EDGE: a runtime in memory for tests, as strict about the contract as the
// real one. Containers run small programs written in Go. A Host outlives its agents: several
// Runtimes can use it one after the other, as when an agent restarts.
package fakeruntime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/passwd"
)

// Op names a call, for failure injection.
type Op string

// The calls that Host.Fail can make fail.
const (
	OpStartSandbox    Op = "StartSandbox"
	OpRemoveSandbox   Op = "RemoveSandbox"
	OpStartContainer  Op = "StartContainer"
	OpRemoveContainer Op = "RemoveContainer"
	OpSignal          Op = "Signal"
	OpUpdateResources Op = "UpdateResources"
	OpPull            Op = "Pull"
	OpImage           Op = "Image"
	OpExec            Op = "Exec"
	OpList            Op = "List"
)

// Host is a machine with a container runtime.
type Host struct {
	// Fail returns the error that a call ends with; nil for none. Set it before use.
	Fail func(op Op, subject string) error
	// Programs by the first word of the command, in addition to the built-in true, false, sleep,
	// echo, cat and sh -c.
	Programs map[string]Program
	// Registry holds the images that can be pulled, by full name.
	Registry map[string]Image

	now        func() time.Time
	mu         sync.Mutex
	sandboxes  map[types.UID]*sandbox
	containers map[string]*container
	images     map[string]*image // by id
	watchers   map[chan types.UID]*Runtime
	pids       int
	down       bool
}

type sandbox struct {
	config runtime.SandboxConfig
	runtime.Sandbox
}

type container struct {
	config  runtime.ContainerConfig
	c       runtime.Container
	process *Process
	log     *logWriter
}

// Image is the content of an image.
type Image struct {
	Config        imagespec.ImageConfig
	Passwd, Group string
	// Auth, if not nil, decides whether credentials may pull the image.
	Auth func(runtime.Credentials) bool
}

type image struct {
	runtime.Image
	db passwd.Database
}

// NewHost returns an empty machine.
func NewHost(now func() time.Time) *Host {
	return &Host{
		now:      now,
		Programs: map[string]Program{}, Registry: map[string]Image{},
		sandboxes: map[types.UID]*sandbox{}, containers: map[string]*container{}, images: map[string]*image{},
		watchers: map[chan types.UID]*Runtime{},
	}
}

// check injects failures. Call it without the lock.
func (h *Host) check(ctx context.Context, op Op, subject string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	down := h.down
	h.mu.Unlock()
	if down {
		return runtime.ErrUnavailable
	}
	if h.Fail == nil {
		return nil
	}
	return h.Fail(op, subject)
}

// SetDown makes every call fail with ErrUnavailable and closes the watches, as when the runtime's
// daemon is down. Running containers go on.
func (h *Host) SetDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
	if down {
		for ch := range h.watchers {
			close(ch)
		}
		clear(h.watchers)
	}
}

// Reboot ends everything that runs; records stay, as on a disk.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sandboxes {
		s.Ready = false
		h.notify(s.config.Pod.UID)
	}
	for _, c := range h.containers {
		if c.c.State == runtime.Running {
			c.process.abandon()
			h.end(c, 255, false)
		}
	}
}

// Exit ends a running container with the given exit code.
func (h *Host) Exit(id string, code int, oom bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.containers[id]
	if c == nil || c.c.State != runtime.Running {
		return fmt.Errorf("container %.12s is not running", id)
	}
	c.process.abandon()
	h.end(c, code, oom)
	return nil
}

// end requires the lock.
func (h *Host) end(c *container, code int, oom bool) {
	if c.c.State == runtime.Exited {
		return
	}
	c.c.State, c.c.ExitCode, c.c.OOMKilled, c.c.FinishedAt, c.c.Pid = runtime.Exited, code, oom, h.now(), 0
	h.notify(c.config.Pod.UID)
}

// notify requires the lock.
func (h *Host) notify(uid types.UID) {
	for ch := range h.watchers {
		select {
		case ch <- uid:
		default:
			close(ch)
			delete(h.watchers, ch)
		}
	}
}

// AddImage adds an image to the store under a name in its short form.
func (h *Host) AddImage(name string, i Image) error {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addImage(named, i)
	return nil
}

// addImage requires the lock.
func (h *Host) addImage(named reference.Named, i Image) *image {
	id := digest.FromString("config of " + named.Name() + fmt.Sprint(i.Config.Env, i.Config.Cmd, i.Passwd)).String()
	img := h.images[id]
	if img == nil {
		img = &image{Image: runtime.Image{ID: id, Size: 1 << 20, Config: i.Config}, db: passwd.Parse([]byte(i.Passwd), []byte(i.Group))}
		h.images[id] = img
	}
	if _, ok := named.(reference.Tagged); ok && !slices.Contains(img.Tags, named.String()) {
		img.Tags = append(img.Tags, named.String())
	}
	byDigest := named.Name() + "@" + digest.FromString("manifest of "+id).String()
	if !slices.Contains(img.Digests, byDigest) {
		img.Digests = append(img.Digests, byDigest)
	}
	return img
}

// String prints the whole state in a fixed order, one object a line.
func (h *Host) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, uid := range slices.Sorted(maps.Keys(h.sandboxes)) {
		s := h.sandboxes[uid]
		fmt.Fprintf(&b, "sandbox %s/%s attempt %d ready %t\n", s.config.Pod.Namespace, s.config.Pod.Name, s.Attempt, s.Ready)
	}
	for _, c := range h.sorted() {
		fmt.Fprintf(&b, "container %s/%s %s attempt %d %s", c.config.Pod.Namespace, c.config.Pod.Name, c.c.Name, c.c.Attempt, c.c.State)
		if c.c.State == runtime.Exited {
			fmt.Fprintf(&b, " %d", c.c.ExitCode)
		}
		b.WriteByte('\n')
	}
	for _, id := range slices.Sorted(maps.Keys(h.images)) {
		fmt.Fprintf(&b, "image %s\n", strings.Join(h.images[id].Tags, " "))
	}
	return b.String()
}

// sorted requires the lock.
func (h *Host) sorted() []*container {
	return slices.SortedFunc(maps.Values(h.containers), func(a, b *container) int {
		return cmp.Or(cmp.Compare(a.config.Pod.UID, b.config.Pod.UID), cmp.Compare(a.c.Name, b.c.Name), cmp.Compare(a.c.Attempt, b.c.Attempt))
	})
}

// pod requires the lock.
func (h *Host) pod(uid types.UID) runtime.Pod {
	var p runtime.Pod
	if s := h.sandboxes[uid]; s != nil {
		copied := s.Sandbox
		p.PodRef, p.Sandbox = s.config.Pod, &copied
	}
	for _, c := range h.sorted() {
		if c.config.Pod.UID == uid {
			p.PodRef = c.config.Pod
			p.Containers = append(p.Containers, c.c)
		}
	}
	return p
}

func (h *Host) startSandbox(c runtime.SandboxConfig) (runtime.Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if have := h.sandboxes[c.Pod.UID]; have != nil && have.Attempt == c.Attempt && have.Ready {
		return have.Sandbox, nil
	}
	h.pids++
	s := &sandbox{config: c, Sandbox: runtime.Sandbox{
		ID: runtime.SandboxID(c.Pod.UID, c.Attempt), Attempt: c.Attempt, Ready: true, HostNetwork: c.HostNetwork, CreatedAt: h.now(),
	}}
	dir := "/run/fake/" + string(c.Pod.UID)
	if !c.HostNetwork {
		s.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(h.pids >> 8), byte(h.pids)})}
		s.Namespaces.Net, s.Namespaces.UTS = dir+"/net", dir+"/uts"
	}
	if !c.HostIPC {
		s.Namespaces.IPC = dir + "/ipc"
	}
	if c.ShareProcessNamespace && !c.HostPID {
		s.Namespaces.PID = dir + "/pid"
	}
	h.sandboxes[c.Pod.UID] = s
	h.notify(c.Pod.UID)
	return s.Sandbox, nil
}

func (h *Host) removeSandbox(uid types.UID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.containers {
		if c.config.Pod.UID == uid && c.c.State == runtime.Running {
			return fmt.Errorf("container %q still runs in the sandbox", c.c.Name)
		}
	}
	if h.sandboxes[uid] != nil {
		delete(h.sandboxes, uid)
		h.notify(uid)
	}
	return nil
}

var errNoSandbox = errors.New("the sandbox does not exist or is not ready")

func (h *Host) startContainer(ctx context.Context, config runtime.ContainerConfig) (runtime.Container, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := config.ID()
	if have := h.containers[id]; have != nil {
		return have.c, nil
	}
	s := h.sandboxes[config.Pod.UID]
	if s == nil || !s.Ready || config.SandboxID != "" && s.ID != config.SandboxID {
		return runtime.Container{}, errNoSandbox
	}
	if h.images[config.Image.ID] == nil {
		return runtime.Container{}, fmt.Errorf("image %q: %w", config.Image.ID, runtime.ErrNotFound)
	}
	if config.Spec == nil || config.Spec.Process == nil || len(config.Spec.Process.Args) == 0 {
		return runtime.Container{}, errors.New("the spec has no process")
	}
	h.pids++
	c := &container{config: config, c: runtime.Container{
		ID: id, Name: config.Name, Attempt: config.Attempt, SandboxID: config.SandboxID, State: runtime.Running, Pid: 1000 + h.pids,
		Image: config.ImageRef, ImageID: config.Image.ID, CreatedAt: h.now(), StartedAt: h.now(),
		Recorded: runtime.Recorded{ImageDigest: config.Image.ID, StopSignal: config.StopSignal},
		SpecHash: config.SpecHash, SpecResources: config.SpecResources, LogPath: config.LogPath, MessagePath: config.MessagePath,
	}}
	if config.Spec.Linux != nil {
		c.c.Resources = config.Spec.Linux.Resources
	}
	h.containers[id] = c
	args := config.Spec.Process.Args
	program, err := h.program(args)
	if err != nil {
		c.c.StartError, c.c.StartedAt = err.Error(), time.Time{}
		h.end(c, 128, false)
		return c.c, nil
	}
	if c.log, err = newLogWriter(config.LogPath, h.now); err != nil {
		delete(h.containers, id)
		return runtime.Container{}, err
	}
	c.process = newProcess(ctx, h, args, program)
	c.process.keepOpen(config.Stdin, config.StdinOnce, c.log)
	c.process.start(func(code int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		c.log.close()
		h.end(c, code, false)
	})
	h.notify(config.Pod.UID)
	return c.c, nil
}

func (h *Host) signal(id string, sig syscall.Signal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.containers[id]; c != nil && c.c.State == runtime.Running {
		c.process.signal(sig)
	}
}

func (h *Host) removeContainer(id string) error {
	h.mu.Lock()
	c := h.containers[id]
	if c == nil {
		h.mu.Unlock()
		return nil
	}
	delete(h.containers, id)
	if c.process != nil {
		c.process.abandon()
	}
	h.notify(c.config.Pod.UID)
	h.mu.Unlock()
	if c.log == nil {
		return nil
	}
	return c.log.remove()
}

func (h *Host) find(id string) (*container, runtime.Container) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.containers[id]; c != nil {
		return c, c.c
	}
	return nil, runtime.Container{}
}
