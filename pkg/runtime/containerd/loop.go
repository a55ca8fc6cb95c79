package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// Retry delays of the connection to containerd.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

// Run keeps the view current until ctx ends. When it returns, no goroutine of the Runtime is left;
// containers run on.
func (r *Runtime) Run(ctx context.Context) error {
	r.mu.Lock()
	r.run = ctx
	r.mu.Unlock()
	defer func() {
		r.workers.Wait()
		_ = r.client.Close()
	}()
	retry := minRetry
	for ctx.Err() == nil {
		began := r.c.Now()
		err := r.connection(ctx)
		if ctx.Err() != nil {
			break
		}
		switch refused := r.refuse(err); {
		case refused && retry == minRetry:
			r.c.Logger.Warn("Pods are not started yet", "err", err)
		case refused:
		case r.view.current():
			r.c.Logger.Warn("connection to containerd is lost", "address", r.c.Address, "err", err)
		case retry == minRetry:
			r.c.Logger.Warn("containerd cannot be reached yet", "address", r.c.Address, "err", err)
		}
		r.view.offline()
		if r.c.Now().Sub(began) > 10*time.Second {
			retry = minRetry
		}
		_ = sleep.For(ctx, retry)
		retry = min(2*retry, maxRetry)
	}
	r.view.offline()
	return nil
}

// refuse notes why no pod is run although containerd answers, for Ready; another error is no such
// reason.
func (r *Runtime) refuse(err error) bool {
	var why *ForeignError
	refused := errors.As(err, &why)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = why
	return refused
}

// checkForeign refuses to begin beside a kubelet's pods. Once this agent has begun, what others
// start is their affair.
func (r *Runtime) checkForeign(ctx context.Context) error {
	if r.c.AllowForeign || r.view.loaded() {
		return nil
	}
	pods, err := foreign(ctx, r.client)
	if err == nil && len(pods) > 0 {
		err = &ForeignError{Pods: pods}
	}
	return err
}

// connection lives from one connect to the loss of the event stream. It subscribes before it lists,
// so that nothing falls between the two.
func (r *Runtime) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filter := "namespace==" + r.c.Namespace
	envelopes, errs := r.client.EventService().Subscribe(ctx,
		filter+`,topic~="^/tasks/(exit|oom)$"`, filter+`,topic=="/containers/delete"`, filter+`,topic~="^/images/"`)
	if err := r.checkForeign(ctx); err != nil {
		return err
	}
	if err := r.reconcile(ctx); err != nil {
		return err
	}
	r.refuse(nil)
	r.view.online()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-errs:
			if err == nil {
				err = errors.New("event stream ended")
			}
			return err
		case e := <-envelopes:
			if e == nil {
				return errors.New("event stream ended")
			}
			r.event(e)
		}
	}
}

func (r *Runtime) event(e *events.Envelope) {
	if strings.HasPrefix(e.Topic, "/images/") {
		r.images.stale()
		return
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		r.c.Logger.Warn("containerd's event cannot be read", "topic", e.Topic, "err", err)
		return
	}
	switch e := v.(type) {
	case *eventsapi.TaskExit:
		if e.ID != e.ContainerID {
			return // of an exec
		}
		// Ids return: one that ran before, by the same id, is not this one.
		if c, ok := r.view.find(e.ContainerID); ok && (c.c.Pid == 0 || e.Pid == 0 || c.c.Pid == int(e.Pid)) {
			r.spawn(func(ctx context.Context) { r.exited(ctx, e.ContainerID, int(e.ExitStatus), e.ExitedAt.AsTime()) })
		}
	case *eventsapi.TaskOOM:
		r.view.with(e.ContainerID, func(c *container) bool { c.oom = true; return false })
	case *eventsapi.ContainerDelete:
		// Ids return: the event may be of an earlier container.
		if _, ok := r.view.find(e.ID); ok {
			r.lookAgain(e.ID)
		}
	}
}

// reconcile makes the view what the host holds.
func (r *Runtime) reconcile(ctx context.Context) error {
	version, err := r.client.Version(ctx)
	if err != nil {
		return native(err)
	}
	ids, err := r.recorded(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.version = "containerd://" + strings.TrimPrefix(version.Version, "v")
	r.mu.Unlock()
	if err := r.loadSandboxes(); err != nil {
		return err
	}
	// Also what somebody has removed while nobody listened.
	maps.Copy(ids, r.view.ids())
	if err := r.adoptAll(ctx, ids); err != nil {
		return err
	}
	r.checkReapers()
	r.images.stale()
	r.sweepExecs()
	return nil
}

// recorded are the ids of all containers of ours.
func (r *Runtime) recorded(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	records, err := r.store().List(ctx, fmt.Sprintf("labels.%q", labelUID))
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", native(err))
	}
	ids := map[string]bool{}
	for _, record := range records {
		ids[record.ID] = true
	}
	return ids, nil
}

// loadSandboxes reads the records once; from then on the view is what writes them.
func (r *Runtime) loadSandboxes() error {
	if r.view.loaded() {
		return nil
	}
	all, err := r.readSandboxes()
	if err != nil {
		return err
	}
	for _, s := range all {
		if _, ok := r.view.sandbox(s.Config.Pod.UID); !ok {
			r.c.SELinux.Reserve(s.Sandbox.SELinux)
			r.view.putSandbox(s)
		}
	}
	return nil
}

// checkReapers makes sandboxes unready whose shared PID namespace has no process any more.
func (r *Runtime) checkReapers() {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	for uid, s := range r.view.sandboxes {
		if s.Sandbox.Namespaces.PID == "" || !s.Sandbox.Ready {
			continue
		}
		if c := r.view.containers[s.Sandbox.ID]; c == nil || c.c.State == runtime.Exited {
			s.Sandbox.Ready = false
			r.view.notify(uid)
		}
	}
}

// sweepExecs ends the processes that an earlier agent ran in containers: whoever asked for them is
// gone with it.
func (r *Runtime) sweepExecs() {
	root := filepath.Join(r.c.RunDir, "exec")
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, execID, ok := strings.Cut(e.Name(), ".")
		if !ok || r.execs.has(e.Name()) {
			continue
		}
		dir := filepath.Join(root, e.Name())
		r.execs.names.Store(e.Name(), true)
		if !r.spawn(func(ctx context.Context) {
			defer r.execs.names.Delete(filepath.Base(dir))
			if c, ok := r.view.find(id); !ok || c.c.State == runtime.Exited || r.endExec(ctx, id, execID) {
				removeExecDir(dir)
			}
		}) {
			r.execs.names.Delete(e.Name())
		}
	}
}
