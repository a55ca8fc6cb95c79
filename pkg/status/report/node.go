package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/nodeagent/nodeagent/pkg/status"
)

// NodeConfig is what a Node reporter is made from.
type NodeConfig struct {
	Client kubernetes.Interface // without limits
	// Facts gathers what the node's object is computed from.
	Facts func(ctx context.Context) (status.Facts, error)
	Name  string
	// Register creates the Node if there is none.
	Register bool
	// UpdateEvery is how often the status is computed; ReportEvery is how often it is sent even if
	// nothing has changed.
	UpdateEvery, ReportEvery time.Duration
	Clock                    clock.WithTicker
	Log                      *slog.Logger
}

// Node keeps the node's object registered and its status reported.
//
//	Run: register (retried until it succeeds) → status at once → each UpdateEvery or on Changed: compute; differs or ReportEvery over → patch
//
// It registers only when it starts, as kubelet does: a Node that somebody deletes, to retire the
// machine, must not come back. A Node of that name that somebody else creates is adopted.
type Node struct {
	config   NodeConfig
	changed  chan struct{}
	current  atomic.Pointer[corev1.Node] // as the API server last answered
	reported time.Time                   // of the last patch; only Run's goroutine uses it
	done     chan struct{}               // closed when registered
	deleted  atomic.Bool                 // the Node was deleted after it was registered
}

// NewNode makes a reporter. It does nothing until Run.
func NewNode(c NodeConfig) (*Node, error) {
	if c.Name == "" || c.UpdateEvery <= 0 || c.ReportEvery <= 0 {
		return nil, fmt.Errorf("making the node reporter: name %q and intervals %s and %s must be set", c.Name, c.UpdateEvery, c.ReportEvery)
	}
	return &Node{config: c, changed: make(chan struct{}, 1), done: make(chan struct{})}, nil
}

// Changed has the status computed now, because the runtime went away or came back or a CNI
// configuration appeared.
func (n *Node) Changed() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Current is the node's object as the API server last answered; nil before registration. It must
// not be written to.
func (n *Node) Current() *corev1.Node { return n.current.Load() }

// Allocatable is what pods may request together; nil before registration.
func (n *Node) Allocatable() corev1.ResourceList {
	if node := n.current.Load(); node != nil {
		return node.Status.Allocatable
	}
	return nil
}

// Deleted says that somebody deleted the Node while the agent was running.
func (n *Node) Deleted() bool { return n.deleted.Load() }

// UID is the registered node's UID; "" before that, and when the Node was deleted.
func (n *Node) UID() types.UID {
	if node := n.current.Load(); node != nil && !n.deleted.Load() {
		return node.UID
	}
	return ""
}

// Registered is closed once the API server has the node.
func (n *Node) Registered() <-chan struct{} { return n.done }

// Run registers and reports until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	if !n.register(ctx) {
		return nil
	}
	close(n.done)
	tick := n.config.Clock.NewTicker(n.config.UpdateEvery)
	defer tick.Stop()
	for {
		if err := n.report(ctx); err != nil && ctx.Err() == nil {
			n.config.Log.Error("Node status was not reported", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
		case <-n.changed:
		}
	}
}

// register tries until the node exists in the API server, with pauses from 100 ms to 7 s, each
// shortened by up to half so that the nodes of a cluster do not try in step; false when ctx ended
// first.
func (n *Node) register(ctx context.Context) bool {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 7*time.Second) {
		err := n.tryRegister(ctx)
		if err == nil {
			return true
		}
		pause := wait - rand.N(wait/2)
		if ctx.Err() == nil {
			n.config.Log.Error("Node was not registered", "err", err, "retryIn", pause)
		}
		select {
		case <-ctx.Done():
			return false
		case <-n.config.Clock.After(pause):
		}
	}
}

func (n *Node) tryRegister(ctx context.Context) error {
	facts, err := n.config.Facts(ctx)
	if err != nil {
		return fmt.Errorf("gathering the node's facts: %w", err)
	}
	nodes := n.config.Client.CoreV1().Nodes()
	wanted := status.Node(nil, facts, n.config.Clock.Now())
	existing, err := nodes.Get(ctx, n.config.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && n.config.Register:
		created, err := nodes.Create(ctx, wanted, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("creating node %q: %w", n.config.Name, err)
		}
		n.reported = n.config.Clock.Now()
		n.current.Store(created)
		n.config.Log.Info("Node registered", "node", created.Name)
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("node %q does not exist and registerNode is false: create it, or set registerNode: true", n.config.Name)
	case err != nil:
		return fmt.Errorf("getting node %q: %w", n.config.Name, err)
	}
	node, changed := status.Register(existing, wanted)
	if changed {
		patch, err := twoWay(existing, node)
		if err != nil {
			return err
		}
		if existing, err = nodes.Patch(ctx, n.config.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("reconciling node %q: %w", n.config.Name, err)
		}
	}
	n.current.Store(existing)
	return nil
}

// report computes the status and sends it if it has changed or is due.
func (n *Node) report(ctx context.Context) error {
	facts, err := n.config.Facts(ctx)
	if err != nil {
		return fmt.Errorf("gathering the node's facts: %w", err)
	}
	now := n.config.Clock.Now()
	prev, err := n.get(ctx)
	if err != nil || prev == nil {
		return err
	}
	next := status.Node(prev, facts, now)
	if now.Sub(n.reported) < n.config.ReportEvery && sameStatus(prev.Status, next.Status) {
		return nil
	}
	patch, err := twoWay(prev, next)
	if err != nil {
		return err
	}
	patched, err := n.config.Client.CoreV1().Nodes().PatchStatus(ctx, n.config.Name, patch)
	if err != nil {
		return fmt.Errorf("patching the status of node %q: %w", n.config.Name, err)
	}
	n.reported = now
	n.current.Store(patched)
	return nil
}

// get returns the newest Node that the API server has; nil when it has none.
func (n *Node) get(ctx context.Context) (*corev1.Node, error) {
	nodes := n.config.Client.CoreV1().Nodes()
	// The API server's cache, which kubelet reads too, costs etcd nothing and has the changes of
	// others.
	node, err := nodes.Get(ctx, n.config.Name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) { // the cache may lack a Node that was registered a moment ago
		node, err = nodes.Get(ctx, n.config.Name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		if !n.deleted.Swap(true) {
			n.config.Log.Error("Node was deleted: its pods end, and it is registered again when the agent is restarted", "node", n.config.Name)
		}
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("getting node %q: %w", n.config.Name, err)
	}
	n.current.Store(node)
	if n.deleted.Swap(false) {
		n.config.Log.Info("Node exists again: somebody else has created it", "node", n.config.Name)
	}
	return node, nil
}

// sameStatus compares everything but the heartbeat times, which always differ.
func sameStatus(a, b corev1.NodeStatus) bool {
	timeless := func(s corev1.NodeStatus) corev1.NodeStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	return equality.Semantic.DeepEqual(timeless(a), timeless(b))
}

// twoWay is the strategic merge patch from prev to next. It replaces the list of addresses as a
// whole: two addresses may share a type, which is the list's merge key.
func twoWay(prev, next *corev1.Node) ([]byte, error) {
	was, err := json.Marshal(prev)
	if err != nil {
		return nil, fmt.Errorf("encoding node %q: %w", prev.Name, err)
	}
	is, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encoding node %q: %w", next.Name, err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(was, is, corev1.Node{})
	if err != nil {
		return nil, fmt.Errorf("making a patch of node %q: %w", next.Name, err)
	}
	return replaceAddresses(patch, next.Status.Addresses)
}

// replaceAddresses replaces the whole list of addresses ("$patch: replace") if the patch changes
// it.
func replaceAddresses(patch []byte, addresses []corev1.NodeAddress) ([]byte, error) {
	var tree map[string]any
	if err := json.Unmarshal(patch, &tree); err != nil {
		return nil, fmt.Errorf("reading a patch back: %w", err)
	}
	body, ok := tree["status"].(map[string]any)
	if !ok {
		return patch, nil
	}
	if _, touched := body["addresses"]; !touched {
		return patch, nil
	}
	delete(body, "$setElementOrder/addresses")
	list := make([]any, 0, len(addresses)+1)
	for _, a := range addresses {
		list = append(list, a)
	}
	body["addresses"] = append(list, map[string]string{"$patch": "replace"})
	return json.Marshal(tree)
}
