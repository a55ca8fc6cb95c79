package report

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier"
)

// sinkSpy counts what reaches the API's side.
type sinkSpy struct{ put, finished, forgotten int }

func (s *sinkSpy) Put(*corev1.Pod, corev1.PodStatus)    { s.put++ }
func (s *sinkSpy) Hold(*corev1.Pod, corev1.PodStatus)   {}
func (s *sinkSpy) Finish(*corev1.Pod, corev1.PodStatus) { s.finished++ }
func (s *sinkSpy) Forget(types.UID)                     { s.forgotten++ }

// TestLocal: the tracker learns each pod's readiness on the way of its status, which gets through.
func TestLocal(t *testing.T) {
	tracker, spy := proxier.NewTracker(), &sinkSpy{}
	tracker.SliceChanged(nil, &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{TargetRef: &corev1.ObjectReference{UID: "x"}}}})
	w := Local{Sink: spy, Endpoints: tracker}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "x"}}
	ending := pod.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{}
	status := func(ready corev1.ConditionStatus) corev1.PodStatus {
		return corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: ready}}}
	}
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"ready", func() { w.Put(pod, status(corev1.ConditionTrue)) }, false},
		{"unready", func() { w.Put(pod, status(corev1.ConditionFalse)) }, true},
		{"ready again", func() { w.Put(pod, status(corev1.ConditionTrue)) }, false},
		{"between a container and its successor", func() { w.Hold(pod, status(corev1.ConditionFalse)) }, true},
		{"ready with the successor", func() { w.Put(pod, status(corev1.ConditionTrue)) }, false},
		{"ready, but ending", func() { w.Put(ending, status(corev1.ConditionTrue)) }, true},
		{"over", func() { w.Finish(ending, status(corev1.ConditionFalse)) }, true},
		{"gone, but in a slice", func() { w.Forget("x") }, true},
	} {
		step.do()
		if got := tracker.Unready("x"); got != step.want {
			t.Errorf("%s: unready: %v, want %v", step.name, got, step.want)
		}
	}
	if spy.put != 5 || spy.finished != 1 || spy.forgotten != 1 {
		t.Errorf("of the statuses not all got through: %+v", *spy)
	}
}
