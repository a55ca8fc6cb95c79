package report

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Events sends events to the API server, aggregated as every Kubernetes component does (client-go
// tools/record). Their component is kubelet, which is what people filter for.
type Events struct {
	record.EventRecorder
	broadcaster record.EventBroadcaster
	sending     watch.Interface
	showing     watch.Interface
	run         func() // opens the sink
}

// NewEvents makes a recorder for the node. It keeps events until Run, and sends them then.
func NewEvents(c kubernetes.Interface, node string, log *slog.Logger) *Events {
	b, running := record.NewBroadcaster(), make(chan struct{})
	return &Events{
		EventRecorder: b.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node}),
		broadcaster:   b,
		// a broadcaster drops events that nobody watches
		sending: b.StartRecordingToSink(sinkAfter{&typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")}, running}),
		showing: b.StartEventWatcher(func(e *corev1.Event) {
			log.Debug("Event", "object", e.InvolvedObject.Kind+"/"+e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name,
				"type", e.Type, "reason", e.Reason, "message", e.Message)
		}),
		run: sync.OnceFunc(func() { close(running) }),
	}
}

// sinkAfter is a sink that takes nothing until running is closed. New events are created and known
// ones patched: an EventBroadcaster calls no other method.
type sinkAfter struct {
	record.EventSink
	running <-chan struct{}
}

// Create implements record.EventSink.
func (s sinkAfter) Create(e *corev1.Event) (*corev1.Event, error) {
	<-s.running
	return s.EventSink.Create(e)
}

// Patch implements record.EventSink.
func (s sinkAfter) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	<-s.running
	return s.EventSink.Patch(e, data)
}

// NodeRef is what events about the Node refer to. Its UID is the node's name, as in kubelet's.
func NodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: name, UID: types.UID(name)}
}

// Run sends until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	e.run()
	<-ctx.Done()
	e.broadcaster.Shutdown()
	e.sending.Stop()
	e.showing.Stop()
	return nil
}
