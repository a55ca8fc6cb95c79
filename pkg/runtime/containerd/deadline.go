package containerd

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Deadlines of single calls to containerd, in addition to the caller's. Reads take milliseconds.
// Creating or deleting a task runs other programs, which takes long on a busy machine.
const (
	readTime = 15 * time.Second
	callTime = 2 * time.Minute
)

// unbounded reports calls of unknown length: waiting for an exit, unpacking a layer (the pull's
// progress deadline applies) and garbage collection.
func unbounded(method string) bool {
	switch method {
	case "/containerd.services.tasks.v1.Tasks/Wait", "/containerd.services.diff.v1.Diff/Apply", "/containerd.services.images.v1.Images/Delete":
		return true
	}
	return false
}

// callLimit returns the deadline of one call.
func callLimit(method string) time.Duration {
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch name {
	case "Get", "List", "Version", "Check", "Info", "Status", "Plugins":
		return readTime
	}
	return callTime
}

// calls gives each call to containerd a deadline and keeps track of record changes that do not
// return: with a hung disk, containerd still answers reads from memory.
type calls struct {
	now func() time.Time

	mu      sync.Mutex
	writing map[*write]struct{}
}

type write struct {
	method string
	began  time.Time
}

// unary is a gRPC interceptor.
func (c *calls) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error { //nolint:revive // gRPC's signature
	if unbounded(method) {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	defer c.begin(method)()
	ctx, cancel := context.WithTimeout(ctx, callLimit(method))
	defer cancel()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// begin notes that a record change is in progress; the returned function ends it.
func (c *calls) begin(method string) func() {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch {
	case service != "containerd.services.containers.v1.Containers" && service != "containerd.services.leases.v1.Leases",
		name != "Create" && name != "Update" && name != "Delete":
		return func() {}
	}
	w := &write{method, c.now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing[w] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.writing, w)
	}
}

// stuck returns the name of a record change that has been in progress for longer than patience, or
// "".
func (c *calls) stuck(patience time.Duration) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.writing {
		if c.now().Sub(w.began) > patience {
			return w.method[strings.LastIndexByte(w.method, '.')+1:]
		}
	}
	return ""
}

// Deadlines of the log pump, which opens and removes files: /var/log may hang.
const (
	pumpTime   = 10 * time.Second
	removeTime = 30 * time.Second
)

// boundedPump gives each call to the log pump a deadline, except Attach, which lasts as long as its
// client.
type boundedPump struct{ Pump }

func (p boundedPump) Open(ctx context.Context, out runtime.Output) error {
	ctx, cancel := context.WithTimeout(ctx, pumpTime)
	defer cancel()
	return p.Pump.Open(ctx, out)
}

func (p boundedPump) Seal(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, pumpTime)
	defer cancel()
	return p.Pump.Seal(ctx, id)
}

func (p boundedPump) Drain(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, pumpTime)
	defer cancel()
	return p.Pump.Drain(ctx, id)
}

func (p boundedPump) Remove(ctx context.Context, out runtime.Output) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	return p.Pump.Remove(ctx, out)
}
