package report

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/nodeagent/nodeagent/pkg/status"
)

func newNode(t *testing.T, client *fake.Clientset) *Node {
	t.Helper()
	n, err := NewNode(NodeConfig{
		Client: client, Name: "n", Register: true, UpdateEvery: 10 * time.Second, ReportEvery: 5 * time.Minute, Clock: clock.RealClock{},
		Log:   slog.New(slog.DiscardHandler),
		Facts: func(context.Context) (status.Facts, error) { return status.Facts{Name: "n"}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDeletedNodeStaysAway: a Node that somebody deletes is not registered again, and its lease
// not renewed, until the agent is restarted; one that somebody else creates is taken up.
func TestDeletedNodeStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		nodes := client.CoreV1().Nodes()
		n := newNode(t, client)
		lease, err := NewLease(LeaseConfig{Client: client, NodeName: "n", Duration: 40 * time.Second, Clock: clock.RealClock{}, NodeUID: n.UID})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = n.Run(ctx) }()
		<-n.Registered()
		made, err := nodes.Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made.UID = "first" // the fake gives none
		if _, err := nodes.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		go func() { _ = lease.Run(klog.NewContext(ctx, logr.Discard())) }()
		time.Sleep(time.Minute)
		if n.UID() != "first" || n.Deleted() || time.Since(lease.Renewed()) > time.Minute {
			t.Fatalf("at first: UID %q, deleted %v, lease %v", n.UID(), n.Deleted(), lease.Renewed())
		}
		if err := nodes.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		// as its owner has gone
		if err := client.CoordinationV1().Leases("kube-node-lease").Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if _, err := nodes.Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("five minutes after it was deleted the Node is there again: %v", err)
		}
		if _, err := client.CoordinationV1().Leases("kube-node-lease").Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the lease is there again: %v", err)
		}
		if !n.Deleted() || n.UID() != "" {
			t.Errorf("not told of: deleted %v, UID %q", n.Deleted(), n.UID())
		}
		if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "second"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if n.Deleted() || n.UID() != "second" || time.Since(lease.Renewed()) > time.Minute {
			t.Errorf("created by somebody else: deleted %v, UID %q, lease %v", n.Deleted(), n.UID(), lease.Renewed())
		}
	})
}

// TestYoungNodeIsNotTakenForDeleted: the API server's cache does not have a Node that was
// registered a moment ago.
func TestYoungNodeIsNotTakenForDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		client.PrependReactor("get", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.(clienttesting.GetActionImpl).GetOptions.ResourceVersion == "0" {
				return true, nil, apierrors.NewNotFound(corev1.Resource("nodes"), "n")
			}
			return false, nil, nil
		})
		n := newNode(t, client)
		go func() { _ = n.Run(t.Context()) }()
		<-n.Registered()
		time.Sleep(time.Minute)
		if n.Deleted() {
			t.Error("it was")
		}
	})
}

// TestLeaseIsRenewedWhenItIsWritten: and not when that was tried.
func TestLeaseIsRenewedWhenItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var down atomic.Bool
		down.Store(true)
		refuse := func(clienttesting.Action) (bool, runtime.Object, error) { return down.Load(), nil, errors.New("down") }
		client.PrependReactor("create", "leases", refuse)
		client.PrependReactor("update", "leases", refuse)
		lease, err := NewLease(LeaseConfig{
			Client: client, NodeName: "n", Duration: 40 * time.Second, Clock: clock.RealClock{}, NodeUID: func() types.UID { return "u" },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = lease.Run(klog.NewContext(ctx, logr.Discard())) }()
		time.Sleep(time.Minute)
		if !lease.Renewed().IsZero() {
			t.Errorf("the API server took no lease, and it was renewed at %v", lease.Renewed())
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if age := time.Since(lease.Renewed()); age > 15*time.Second {
			t.Errorf("the API server takes leases again, and it was renewed %s ago", age)
		}
		down.Store(true)
		time.Sleep(time.Hour)
		if age := time.Since(lease.Renewed()); age < 59*time.Minute {
			t.Errorf("after an hour's outage it was renewed %s ago", age)
		}
	})
}
