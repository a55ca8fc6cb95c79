package report

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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
	sink        record.EventSink
	log         *slog.Logger
}

// NewEvents makes a recorder for the node; it sends nothing until Run.
func NewEvents(c kubernetes.Interface, node string, log *slog.Logger) *Events {
	b := record.NewBroadcaster()
	return &Events{
		EventRecorder: b.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node}),
		broadcaster:   b,
		sink:          &typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")},
		log:           log,
	}
}

// NodeRef is what events about the Node refer to. Its UID is the node's name, as in kubelet's.
func NodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: name, UID: types.UID(name)}
}

// Run sends until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	sending := e.broadcaster.StartRecordingToSink(e.sink)
	showing := e.broadcaster.StartEventWatcher(func(ev *corev1.Event) {
		e.log.Debug("Event", "object", ev.InvolvedObject.Kind+"/"+ev.InvolvedObject.Namespace+"/"+ev.InvolvedObject.Name,
			"type", ev.Type, "reason", ev.Reason, "message", ev.Message)
	})
	<-ctx.Done()
	e.broadcaster.Shutdown()
	sending.Stop()
	showing.Stop()
	return nil
}
