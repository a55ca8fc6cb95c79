package agent

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// recorder sends events in the agent's name, aggregated as every Kubernetes component does
// (client-go tools/record). They are sent under the name that people filter for: kubelet.
type recorder struct {
	record.EventRecorder
	broadcaster record.EventBroadcaster
	sink        record.EventSink
}

func newRecorder(c kubernetes.Interface, node string) *recorder {
	b := record.NewBroadcaster()
	return &recorder{
		EventRecorder: b.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node}),
		broadcaster:   b,
		sink:          &typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")},
	}
}

// nodeRef is what events about the Node refer to, as kubelet's do.
func nodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: name, UID: types.UID(name)}
}

// Run sends until ctx ends.
func (r *recorder) Run(ctx context.Context, log *slog.Logger) error {
	sending := r.broadcaster.StartRecordingToSink(r.sink)
	showing := r.broadcaster.StartEventWatcher(func(e *corev1.Event) {
		log.Debug("Event", "object", e.InvolvedObject.Kind+"/"+e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name,
			"type", e.Type, "reason", e.Reason, "message", e.Message)
	})
	<-ctx.Done()
	r.broadcaster.Shutdown()
	sending.Stop()
	showing.Stop()
	return nil
}
