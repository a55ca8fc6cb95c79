package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Labels of the CRI plugin's containers, and the containerd namespace that it uses, whatever
// namespace this agent uses.
const (
	criKind      = "io.cri-containerd.kind"
	criUID       = "io.kubernetes.pod.uid"
	criNamespace = "io.kubernetes.pod.namespace"
	criPod       = "io.kubernetes.pod.name"
	criHome      = "k8s.io"
)

// ForeignError lists pods of a kubelet that still run, with the remedy. It is an ErrUnavailable:
// until they are gone no pod is started, and no pod counts as orphaned.
type ForeignError struct{ Pods []string }

// shownForeign is how many pods the error names.
const shownForeign = 5

func (e *ForeignError) Error() string {
	names := strings.Join(e.Pods[:min(len(e.Pods), shownForeign)], ", ")
	if more := len(e.Pods) - shownForeign; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("a kubelet's pods still run in containerd's CRI plugin (%s), and this agent would start them a second time. "+
		"Stop that kubelet and its pods (systemctl disable --now kubelet; crictl rmp -fa), or give --allow-foreign-pods", names)
}

// Unwrap makes it an ErrUnavailable.
func (e *ForeignError) Unwrap() error { return runtime.ErrUnavailable }

// foreign lists the CRI plugin's pods that have a running task, as namespace/name.
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

// Foreign lists the UIDs of pods that belong to containerd's CRI plugin, that is to a kubelet.
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

// refuse keeps err for Ready if it is a ForeignError, and reports whether it is.
func (r *Runtime) refuse(err error) bool {
	var why *ForeignError
	refused := errors.As(err, &why)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = why
	return refused
}

// checkForeign refuses to start next to a kubelet's pods. It checks only until the first connection
// succeeds.
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
