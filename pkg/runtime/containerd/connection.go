package containerd

import (
	"context"
	"errors"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// minRetry and maxRetry bound the delay between connection attempts.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

// Run keeps the view current until ctx ends. All goroutines of the Runtime have ended when it
// returns; containers run on.
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
			r.c.Logger.Warn("Pods are not started yet: a kubelet's pods still run", "err", err)
		case refused:
		case r.view.current():
			r.c.Logger.Warn("Connection to containerd is lost", "address", r.c.Address, "err", err)
		case retry == minRetry:
			r.c.Logger.Warn("Containerd cannot be reached yet", "address", r.c.Address, "err", err)
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

// connection serves one connection, from connect until the event stream ends. It subscribes before
// it lists, so that no change is missed in between.
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
		r.c.Logger.Warn("Containerd event cannot be decoded", "topic", e.Topic, "err", err)
		return
	}
	switch e := v.(type) {
	case *eventsapi.TaskExit:
		if e.ID != e.ContainerID {
			return // an exec'd process
		}
		// Ids are reused: ignore the exit of an earlier task with the same id.
		if c, ok := r.view.find(e.ContainerID); ok && (c.c.Pid == 0 || e.Pid == 0 || c.c.Pid == int(e.Pid)) {
			r.spawn(func(ctx context.Context) { r.recordExit(ctx, e.ContainerID, int(e.ExitStatus), e.ExitedAt.AsTime()) })
		}
	case *eventsapi.TaskOOM:
		r.view.with(e.ContainerID, func(c *container) bool { c.oom = true; return false })
	case *eventsapi.ContainerDelete:
		// Ids are reused: the event may concern an earlier container.
		if _, ok := r.view.find(e.ID); ok {
			r.observeLater(e.ID)
		}
	}
}

// reconcile brings the view up to date with the host.
func (r *Runtime) reconcile(ctx context.Context) error {
	version, err := r.client.Version(ctx)
	if err != nil {
		return native(err)
	}
	records, err := r.recorded(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.version = "containerd://" + strings.TrimPrefix(version.Version, "v")
	r.mu.Unlock()
	if err := r.loadSandboxes(); err != nil {
		return err
	}
	// The records, and those of the view that were removed while the connection was down.
	ids := r.view.ids()
	for _, record := range records {
		ids[record.ID] = true
	}
	if err := r.adoptAll(ctx, ids); err != nil {
		return err
	}
	r.checkReapers()
	r.images.stale()
	r.sweepExecs()
	return nil
}
