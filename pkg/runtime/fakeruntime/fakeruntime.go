package fakeruntime

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Runtime is one agent on a Host.
type Runtime struct {
	h *Host
}

var _ runtime.Runtime = (*Runtime)(nil)

// New returns an agent on the host.
func New(h *Host) *Runtime { return &Runtime{h} }

// Crash ends this agent: its watches close, the host goes on.
func (r *Runtime) Crash() {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for ch, owner := range r.h.watchers {
		if owner == r {
			close(ch)
			delete(r.h.watchers, ch)
		}
	}
}

// Ready returns ErrUnavailable while the host is down.
func (r *Runtime) Ready(ctx context.Context) error { return r.h.check(ctx, "Ready", "") }

// List implements runtime.Pods.
func (r *Runtime) List(ctx context.Context) ([]runtime.Pod, error) {
	if err := r.h.check(ctx, OpList, ""); err != nil {
		return nil, err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	uids := map[types.UID]bool{}
	for uid := range r.h.sandboxes {
		uids[uid] = true
	}
	for _, c := range r.h.containers {
		uids[c.config.Pod.UID] = true
	}
	pods := []runtime.Pod{}
	for uid := range uids {
		pods = append(pods, r.h.pod(uid))
	}
	slices.SortFunc(pods, func(a, b runtime.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return pods, nil
}

// Get implements runtime.Pods; like the real one it answers from memory while the host is down.
func (r *Runtime) Get(_ context.Context, uid types.UID) (runtime.Pod, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	return r.h.pod(uid), nil
}

// Watch implements runtime.Pods.
func (r *Runtime) Watch(ctx context.Context) (<-chan types.UID, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if r.h.down {
		return nil, runtime.ErrUnavailable
	}
	ch := make(chan types.UID, 4096)
	r.h.watchers[ch] = r
	context.AfterFunc(ctx, func() {
		r.h.mu.Lock()
		defer r.h.mu.Unlock()
		if _, ok := r.h.watchers[ch]; ok {
			close(ch)
			delete(r.h.watchers, ch)
		}
	})
	return ch, nil
}

// StartSandbox implements runtime.Lifecycle.
func (r *Runtime) StartSandbox(ctx context.Context, c runtime.SandboxConfig) (runtime.Sandbox, error) {
	if err := r.h.check(ctx, OpStartSandbox, c.Pod.Name); err != nil {
		return runtime.Sandbox{}, err
	}
	return r.h.startSandbox(c)
}

// RemoveSandbox implements runtime.Lifecycle. Unlike the real one it refuses while a container
// runs, to catch callers that do that.
func (r *Runtime) RemoveSandbox(ctx context.Context, uid types.UID) error {
	if err := r.h.check(ctx, OpRemoveSandbox, string(uid)); err != nil {
		return err
	}
	return r.h.removeSandbox(uid)
}

// StartContainer implements runtime.Lifecycle.
func (r *Runtime) StartContainer(ctx context.Context, c runtime.ContainerConfig) (runtime.Container, error) {
	if err := r.h.check(ctx, OpStartContainer, c.Name); err != nil {
		return runtime.Container{}, err
	}
	return r.h.startContainer(ctx, c)
}

// Signal implements runtime.Lifecycle.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	if err := r.h.check(ctx, OpSignal, id); err != nil {
		return err
	}
	r.h.signal(id, sig)
	return nil
}

// RemoveContainer implements runtime.Lifecycle.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.h.check(ctx, OpRemoveContainer, id); err != nil {
		return err
	}
	return r.h.removeContainer(id)
}

// UpdateResources implements runtime.Resizer. Programs use no memory, so it accepts every limit.
func (r *Runtime) UpdateResources(ctx context.Context, id, specResources string, to *specs.LinuxResources) error {
	if err := r.h.check(ctx, OpUpdateResources, id); err != nil {
		return err
	}
	return r.h.updateResources(id, specResources, to)
}

// Image implements runtime.Images.
func (r *Runtime) Image(ctx context.Context, ref string) (runtime.Image, error) {
	if err := r.h.check(ctx, OpImage, ref); err != nil {
		return runtime.Image{}, err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for _, id := range []string{ref, "sha256:" + ref} {
		if img := r.h.images[id]; img != nil {
			return img.Image, nil
		}
		if _, err := digest.Parse(id); err == nil {
			return runtime.Image{}, fmt.Errorf("image %q: %w", ref, runtime.ErrNotFound)
		}
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image reference %q: %w", ref, err)
	}
	for _, img := range r.h.images {
		if slices.Contains(img.Tags, named.String()) || slices.Contains(img.Digests, named.String()) {
			return img.Image, nil
		}
	}
	return runtime.Image{}, fmt.Errorf("image %q: %w", ref, runtime.ErrNotFound)
}

// errRefused is what a registry answers to wrong credentials.
var errRefused = errors.New("pull access denied, repository does not exist or may require authorization")

// Pull implements runtime.Images, from Host.Registry.
func (r *Runtime) Pull(ctx context.Context, ref string, auth []runtime.Credentials) (runtime.Image, error) {
	if err := r.h.check(ctx, OpPull, ref); err != nil {
		return runtime.Image{}, err
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image reference %q: %w", ref, err)
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	i, ok := r.h.Registry[named.String()]
	if !ok {
		return runtime.Image{}, fmt.Errorf("pulling image %q: %w", ref, runtime.ErrNotFound)
	}
	if i.Auth != nil && !slices.ContainsFunc(append(auth[:len(auth):len(auth)], runtime.Credentials{}), i.Auth) {
		return runtime.Image{}, fmt.Errorf("pulling image %q: %w", ref, errRefused)
	}
	return r.h.addImage(named, i).Image, nil
}

// Images implements runtime.Images.
func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	if err := r.h.check(ctx, OpImage, ""); err != nil {
		return nil, err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	all := []runtime.Image{}
	for _, img := range r.h.images {
		all = append(all, img.Image)
	}
	slices.SortFunc(all, func(a, b runtime.Image) int { return cmp.Or(-cmp.Compare(a.Size, b.Size), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// RemoveImage implements runtime.Images.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	if err := r.h.check(ctx, OpImage, id); err != nil {
		return err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	delete(r.h.images, id)
	return nil
}

// User implements runtime.Images.
func (r *Runtime) User(_ context.Context, imageID, user string) (runtime.User, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	img := r.h.images[imageID]
	if img == nil {
		return runtime.User{}, fmt.Errorf("image %q: %w", imageID, runtime.ErrNotFound)
	}
	return img.db.Lookup(user)
}

func (r *Runtime) running(id string) (*container, error) {
	c, now := r.h.find(id)
	if c == nil {
		return nil, fmt.Errorf("container %.12s: %w", id, runtime.ErrNotFound)
	}
	if now.State != runtime.Running {
		return nil, fmt.Errorf("container %q is %s, not running", now.Name, now.State)
	}
	return c, nil
}

// Exec implements runtime.Streams.
func (r *Runtime) Exec(ctx context.Context, id string, x runtime.ExecConfig) (int, error) {
	if x.Gone != nil {
		defer x.Gone()
	}
	if err := r.h.check(ctx, OpExec, id); err != nil {
		return 0, err
	}
	c, err := r.running(id)
	if err != nil {
		return 0, err
	}
	if len(x.Command) == 0 {
		return 0, errors.New("no command")
	}
	program, err := r.h.program(x.Command)
	if err != nil {
		return 0, err
	}
	p := newProcess(ctx, r.h, x.Command, program)
	if x.IO.Stdin != nil {
		p.Stdin = x.IO.Stdin
	}
	if x.IO.Stdout != nil {
		p.Stdout = x.IO.Stdout
	}
	if x.IO.Stderr != nil {
		p.Stderr = x.IO.Stderr
	}
	code := 0
	p.start(func(got int) { code = got })
	select {
	case <-p.done:
		return code, nil
	case <-ctx.Done():
		p.abandon()
		return 0, ctx.Err()
	case <-c.process.done:
		p.signal(syscall.SIGKILL)
		<-p.done
		return code, nil
	}
}

// Attach implements runtime.Streams.
func (r *Runtime) Attach(ctx context.Context, id string, streams runtime.IO) error {
	c, err := r.running(id)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	remove := c.process.fan.add(func(stderr bool, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		w := streams.Stdout
		if stderr {
			w = streams.Stderr
		}
		if w != nil {
			_, _ = io.Copy(w, bytes.NewReader(b))
		}
	})
	defer remove()
	if pipe := c.process.stdin; pipe != nil && streams.Stdin != nil {
		go func() {
			_, _ = io.Copy(pipe, streams.Stdin)
			if c.process.stdinOnce {
				pipe.close()
			}
		}()
	}
	select {
	case <-c.process.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
