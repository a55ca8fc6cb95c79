package containerd

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Facts are what can be asked of a containerd before anything is run by it.
type Facts struct {
	// Version as in "2.3.4".
	Version string
	// Snapshotters are those it has, by name; the value says why one does not work, "" that it
	// does.
	Snapshotters map[string]string
	// Foreign are pods that containerd's CRI plugin runs, as namespace/name.
	Foreign []string
}

// Probe asks the containerd at a socket. It changes nothing.
func Probe(ctx context.Context, address string) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// the client would try for as long as it may; a socket is there or not
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return Facts{}, fmt.Errorf("connecting to containerd: %w", err)
	}
	_ = conn.Close()
	c, err := client.New(address, client.WithTimeout(2*time.Second))
	if err != nil {
		return Facts{}, fmt.Errorf("connecting to containerd at %q: %w", address, err)
	}
	defer func() { _ = c.Close() }()
	v, err := c.Version(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("asking containerd at %q for its version: %w", address, native(err))
	}
	plugins, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return Facts{}, fmt.Errorf("asking containerd at %q for its snapshotters: %w", address, native(err))
	}
	f := Facts{Version: v.Version, Snapshotters: map[string]string{}}
	for _, p := range plugins.Plugins {
		f.Snapshotters[p.ID] = whyNot(p)
	}
	f.Foreign, err = foreign(ctx, c)
	return f, err
}

func whyNot(p *introspectionapi.Plugin) string {
	if p.InitErr == nil {
		return ""
	}
	return p.InitErr.Message
}

// Labels of containers that containerd's CRI plugin runs, and the namespace in which it runs them,
// whichever is ours.
const (
	criKind      = "io.cri-containerd.kind"
	criUID       = "io.kubernetes.pod.uid"
	criNamespace = "io.kubernetes.pod.namespace"
	criPod       = "io.kubernetes.pod.name"
	criHome      = "k8s.io"
)

// ForeignError says which pods of a kubelet still run, and what to do. It is an ErrUnavailable: no
// pod is started, and none is taken for an orphan, until they are gone.
type ForeignError struct{ Pods []string }

// shownForeign is how many pods an error names.
const shownForeign = 5

func (e *ForeignError) Error() string {
	names := strings.Join(e.Pods[:min(len(e.Pods), shownForeign)], ", ")
	if more := len(e.Pods) - shownForeign; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("pods of a kubelet still run here, by containerd's CRI plugin (%s): this agent would start them a second time. "+
		"Stop that kubelet and its pods (systemctl disable --now kubelet; crictl rmp -fa), or give --allow-foreign-pods", names)
}

// Unwrap says what kind of error it is.
func (e *ForeignError) Unwrap() error { return runtime.ErrUnavailable }

// foreign are the pods with a task that runs, of containerd's CRI plugin, as namespace/name.
func foreign(ctx context.Context, c *client.Client) ([]string, error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, criHome), readTime)
	defer cancel()
	records, err := c.ContainerService().List(ctx, fmt.Sprintf("labels.%q", criKind))
	if err != nil {
		return nil, fmt.Errorf("listing containers of CRI: %w", native(err))
	}
	if len(records) == 0 {
		return nil, nil
	}
	listed, err := c.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing tasks of CRI: %w", native(err))
	}
	ended := map[string]bool{}
	for _, t := range listed.Tasks {
		ended[t.ID] = t.Status == tasktypes.Status_STOPPED
	}
	pods := map[string]bool{}
	for _, r := range records {
		if stopped, there := ended[r.ID]; there && !stopped {
			pods[r.Labels[criNamespace]+"/"+r.Labels[criPod]] = true
		}
	}
	return slices.Sorted(maps.Keys(pods)), nil
}

// Foreign are the pods that containerd's CRI plugin runs: a kubelet's, not ours.
func (r *Runtime) Foreign(ctx context.Context) (map[types.UID]bool, error) {
	records, err := r.store().List(namespaces.WithNamespace(ctx, criHome), fmt.Sprintf("labels.%q", criUID))
	if err != nil {
		return nil, fmt.Errorf("listing containers of CRI: %w", native(err))
	}
	found := map[types.UID]bool{}
	for _, record := range records {
		found[types.UID(record.Labels[criUID])] = true
	}
	return found, nil
}
