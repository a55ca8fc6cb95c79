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

// Run renews the lease until ctx ends. The lease is left to expire by itself: the node has not gone, its agent has.
func (l *Lease) Run(ctx context.Context) error {
	c := l.config
	lease.NewController(c.Clock, c.Client, c.NodeName, int32(c.Duration/time.Second), nil, c.Duration/4,
		c.NodeName, corev1.NamespaceNodeLease, l.own).Run(ctx)
	return nil
}

// Renewed is when the lease was last written as far as the agent knows; zero if never.
func (l *Lease) Renewed() time.Time {
	if t := l.renewed.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// own makes the Node the lease's owner, so that it is collected with it. It is called before each write.
func (l *Lease) own(le *coordinationv1.Lease) error {
	if le.Spec.RenewTime != nil {
		l.renewed.Store(&le.Spec.RenewTime.Time)
	}
	uid := l.config.NodeUID()
	if uid == "" {
		return fmt.Errorf("owning lease %q: the node is not registered yet", le.Name)
	}
	le.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: l.config.NodeName, UID: uid,
	}}
	return nil
}
