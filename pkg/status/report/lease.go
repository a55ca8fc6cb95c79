package report

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"
)

// LeaseConfig is what a Lease is made from.
type LeaseConfig struct {
	// Client has connections of its own, without limits.
	Client   kubernetes.Interface
	NodeName string
	Duration time.Duration // whole seconds; renewed at a quarter of it
	Clock    clock.Clock
	// NodeUID returns the UID of the registered Node, the lease's owner; "" while it is not known.
	NodeUID func() types.UID
}

// Lease is the node's heartbeat: kube-node-lease/<node> (KEP-589).
type Lease struct {
	config  LeaseConfig
	renewed atomic.Pointer[time.Time]
}

// NewLease makes a Lease; it does nothing until Run.
func NewLease(c LeaseConfig) (*Lease, error) {
	if c.Duration < 4*time.Second {
		return nil, fmt.Errorf("making the node lease: a duration of %s is under 4s: set nodeLeaseDurationSeconds to 40", c.Duration)
	}
	return &Lease{config: c}, nil
}

// Run renews the lease until ctx ends. It does not delete the lease, which expires by itself: the
// node still exists, only its agent has stopped.
func (l *Lease) Run(ctx context.Context) error {
	c := l.config
	lease.NewController(c.Clock, noted{c.Client, l.note}, c.NodeName, int32(c.Duration/time.Second), nil, c.Duration/4,
		c.NodeName, corev1.NamespaceNodeLease, l.own).Run(ctx)
	return nil
}

// Renewed is when the API server last accepted the lease; zero if never.
func (l *Lease) Renewed() time.Time {
	if t := l.renewed.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// note records the outcome of a write of the lease.
func (l *Lease) note(err error) {
	if err == nil {
		now := l.config.Clock.Now()
		l.renewed.Store(&now)
	}
}

// own makes the Node the lease's owner, so that the lease is collected with it. client-go calls it
// before each write.
func (l *Lease) own(le *coordinationv1.Lease) error {
	uid := l.config.NodeUID()
	if uid == "" {
		return fmt.Errorf("owning lease %q: the API server has no Node of this name", le.Name)
	}
	le.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: l.config.NodeName, UID: uid,
	}}
	return nil
}

// noted is a client that reports the outcome of each write of a lease: client-go's lease controller
// does not.
type noted struct {
	kubernetes.Interface
	note func(err error)
}

// CoordinationV1 implements kubernetes.Interface.
func (n noted) CoordinationV1() coordinationclient.CoordinationV1Interface {
	return notedGroup{n.Interface.CoordinationV1(), n.note}
}

type notedGroup struct {
	coordinationclient.CoordinationV1Interface
	note func(err error)
}

// Leases implements the group's client.
func (n notedGroup) Leases(namespace string) coordinationclient.LeaseInterface {
	return notedLeases{n.CoordinationV1Interface.Leases(namespace), n.note}
}

type notedLeases struct {
	coordinationclient.LeaseInterface
	note func(err error)
}

// Create implements LeaseInterface.
func (n notedLeases) Create(ctx context.Context, l *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	made, err := n.LeaseInterface.Create(ctx, l, o)
	n.note(err)
	return made, err
}

// Update implements LeaseInterface.
func (n notedLeases) Update(ctx context.Context, l *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	made, err := n.LeaseInterface.Update(ctx, l, o)
	n.note(err)
	return made, err
}
