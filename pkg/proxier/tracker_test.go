package proxier

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func sliceOf(name string, pods ...types.UID) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for _, uid := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: uid}})
	}
	return s
}

// TestPodThatIsGoneStaysWithdrawn until no slice has it: the API may take its time to say so.
func TestPodThatIsGoneStaysWithdrawn(t *testing.T) {
	k := NewTracker()
	a, b := sliceOf("a", "x", "y"), sliceOf("b", "x")
	k.SliceChanged(nil, a)
	k.SliceChanged(nil, b)
	withdrawn := func(step string, want bool) {
		t.Helper()
		if _, _, n := k.objects(); n.Withdrawn["x"] != want {
			t.Errorf("%s: withdrawn: %v, want %v", step, n.Withdrawn["x"], want)
		}
	}
	k.Withdraw("x", true)
	k.PodGone("x")
	withdrawn("in two slices", true)
	k.SliceChanged(a, sliceOf("a", "y"))
	withdrawn("in one slice", true)
	k.SliceChanged(b, nil)
	withdrawn("in none", false)
	k.Withdraw("z", true)
	k.PodGone("z")
	if _, _, n := k.objects(); len(n.Withdrawn)+len(k.gone) > 0 {
		t.Errorf("%v, %v are kept of pods that nobody knows", n.Withdrawn, k.gone)
	}
}

// TestWithdrawingWhatNoSliceHasWakesNobody: every pod that starts is unready for a while.
func TestWithdrawingWhatNoSliceHasWakesNobody(t *testing.T) {
	k := NewTracker()
	k.SliceChanged(nil, sliceOf("a", "x"))
	wake := k.subscribe()
	<-wake
	k.Withdraw("z", true)
	if len(wake) > 0 {
		t.Error("a pod of no slice woke the loop")
	}
	k.Withdraw("x", true)
	if len(wake) == 0 {
		t.Error("a pod of a slice did not wake the loop")
	}
}
