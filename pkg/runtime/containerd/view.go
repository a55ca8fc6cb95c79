package containerd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// view caches what the host holds. All of it can be rebuilt from the host.
type view struct {
	mu         sync.Mutex
	synced     chan struct{} // closed once the first reconcile is done
	connected  bool
	sandboxes  map[types.UID]*sandbox
	containers map[string]*container
	watchers   map[chan types.UID]struct{}
}

// container is one container with what the contract does not show.
type container struct {
	ref     runtime.PodRef
	c       runtime.Container
	streams streams
	cgroup  string   // cgroupsPath of the spec
	process []byte   // the spec's process as JSON, for exec; nil until needed
	group   string   // shim group
	tasked  bool     // this agent created its task
	watched bool     // a goroutine waits for its exit
	oom     bool     // an OOM event came
	exiting bool     // its exit is recorded or being recorded
	pidfd   *os.File // see hold
}

// hold opens a pidfd for the main process: by it the kernel tells the exit code even if containerd
// is down when the process ends.
func (c *container) hold() {
	if c.pidfd == nil && c.c.Pid > 0 {
		c.pidfd = openPidfd(c.c.Pid)
	}
}

func (c *container) release() {
	if c.pidfd != nil {
		_ = c.pidfd.Close()
		c.pidfd = nil
	}
}

func newView() *view {
	return &view{
		synced:     make(chan struct{}),
		sandboxes:  map[types.UID]*sandbox{},
		containers: map[string]*container{},
		watchers:   map[chan types.UID]struct{}{},
	}
}

// current reports whether the connection is up.
func (v *view) current() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.connected
}

// loaded reports whether the first reconcile is done.
func (v *view) loaded() bool {
	select {
	case <-v.synced:
		return true
	default:
		return false
	}
}

// syncWait is how long a call waits for the first reconcile.
const syncWait = 5 * time.Second

// wait blocks callers until the first reconcile is done.
func (v *view) wait(ctx context.Context) error {
	if v.loaded() {
		return nil
	}
	t := time.NewTimer(syncWait)
	defer t.Stop()
	select {
	case <-v.synced:
		return nil
	case <-t.C:
		return fmt.Errorf("containerd has not been reached yet: %w", runtime.ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *view) online() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.connected = true
	if !v.loaded() {
		close(v.synced)
	}
}

// offline closes the watchers' channels: the view may be stale, so they must list again.
func (v *view) offline() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.connected = false
	for ch := range v.watchers {
		close(ch)
	}
	clear(v.watchers)
}

// with calls f with the container under the view's lock, and notifies the watchers if f returns
// true. It returns false if there is no such container.
func (v *view) with(id string, f func(c *container) (changed bool)) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.containers[id]
	if c == nil {
		return false
	}
	if f(c) {
		v.notify(c.ref.UID)
	}
	return true
}

// find returns a copy of the container.
func (v *view) find(id string) (container, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.containers[id]
	if c == nil {
		return container{}, false
	}
	return *c, true
}

// same returns a function that reports whether the id still refers to the same container: ids are
// reused.
func (v *view) same(id string) func() bool {
	now := func() *container {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.containers[id]
	}
	was := now()
	return func() bool { return now() == was }
}

// ids lists all containers.
func (v *view) ids() map[string]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	ids := map[string]bool{}
	for id := range v.containers {
		ids[id] = true
	}
	return ids
}

func (v *view) put(c *container) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.containers[c.c.ID]; old != nil && old != c {
		c.pidfd, old.pidfd = old.pidfd, nil
	}
	v.containers[c.c.ID] = c
	v.notify(c.ref.UID)
}

func (v *view) drop(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.containers[id]; c != nil {
		c.release()
		delete(v.containers, id)
		v.notify(c.ref.UID)
	}
}

// group returns the shim group for a new container: that of a container alive in the same sandbox,
// else its own id, which no exiting shim uses. The caller holds the lock of the sandbox's shim.
func (v *view) group(c *container) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if have := v.containers[c.c.ID]; have != nil && have.group != "" {
		return have.group // as its record says
	}
	for _, other := range v.containers {
		if other.c.SandboxID == c.c.SandboxID && other.group != "" && (other.tasked || other.c.State == runtime.Running) && !other.exiting {
			return other.group
		}
	}
	return c.c.ID
}

// reapers lists the containers that keep the pod's shared PID namespace.
func (v *view) reapers(uid types.UID) map[string]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	ids := map[string]bool{}
	for id, c := range v.containers {
		if c.ref.UID == uid && c.c.Name == "" {
			ids[id] = true
		}
	}
	return ids
}

func (v *view) sandbox(uid types.UID) (sandbox, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.sandboxes[uid]
	if s == nil {
		return sandbox{}, false
	}
	return *s, true
}

func (v *view) putSandbox(s *sandbox) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sandboxes[s.Config.Pod.UID] = s
	v.notify(s.Config.Pod.UID)
}

func (v *view) dropSandbox(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.sandboxes, uid)
	v.notify(uid)
}

// notify requires the lock. A watcher whose channel is full has fallen thousands of hints behind;
// its channel is closed, so that it lists again.
func (v *view) notify(uid types.UID) {
	for ch := range v.watchers {
		select {
		case ch <- uid:
		default:
			close(ch)
			delete(v.watchers, ch)
		}
	}
}

func (v *view) pod(uid types.UID) runtime.Pod {
	var p runtime.Pod
	if s := v.sandboxes[uid]; s != nil {
		p.PodRef = s.Config.Pod
		copied := s.Sandbox
		p.Sandbox = &copied
	}
	for _, c := range v.containers {
		if c.ref.UID == uid && c.c.Name != "" {
			p.PodRef = c.ref
			p.Containers = append(p.Containers, c.c)
		}
	}
	slices.SortFunc(p.Containers, byNameAndAttempt)
	return p
}

func byNameAndAttempt(a, b runtime.Container) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attempt, b.Attempt))
}

// List returns every pod with a sandbox or a container, in order of UID.
func (r *Runtime) List(ctx context.Context) ([]runtime.Pod, error) {
	if err := r.view.wait(ctx); err != nil {
		return nil, err
	}
	v := r.view
	v.mu.Lock()
	defer v.mu.Unlock()
	uids := map[types.UID]bool{}
	for uid := range v.sandboxes {
		uids[uid] = true
	}
	for _, c := range v.containers {
		if c.c.Name != "" {
			uids[c.ref.UID] = true
		}
	}
	pods := make([]runtime.Pod, 0, len(uids))
	for uid := range uids {
		pods = append(pods, v.pod(uid))
	}
	slices.SortFunc(pods, func(a, b runtime.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return pods, nil
}

// Get returns one pod from memory; the zero Pod if it is unknown.
func (r *Runtime) Get(ctx context.Context, uid types.UID) (runtime.Pod, error) {
	if err := r.view.wait(ctx); err != nil {
		return runtime.Pod{}, err
	}
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	return r.view.pod(uid), nil
}

// Watch sends the UIDs of pods that may have changed.
func (r *Runtime) Watch(ctx context.Context) (<-chan types.UID, error) {
	if err := r.view.wait(ctx); err != nil {
		return nil, err
	}
	v := r.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.connected {
		return nil, fmt.Errorf("the connection to containerd is lost: %w", runtime.ErrUnavailable)
	}
	ch := make(chan types.UID, 4096)
	v.watchers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if _, ok := v.watchers[ch]; ok {
			delete(v.watchers, ch)
			close(ch)
		}
	})
	return ch, nil
}
