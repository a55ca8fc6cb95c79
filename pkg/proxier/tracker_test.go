package proxier

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

func sliceOf(name string, pods ...types.UID) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	for _, uid := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: uid}})
	}
	return s
}

// TestPodThatIsGoneStaysUnready until no slice has it: the API may take its time to say so.
func TestPodThatIsGoneStaysUnready(t *testing.T) {
	k := NewTracker()
	a, b := sliceOf("a", "x", "y"), sliceOf("b", "x")
	k.SliceChanged(nil, a)
	k.SliceChanged(nil, b)
	unready := func(step string, want bool) {
		t.Helper()
		if _, _, n := k.objects(); n.Unready["x"] != want {
			t.Errorf("%s: unready: %v, want %v", step, n.Unready["x"], want)
		}
	}
	k.MarkUnready("x", true)
	k.PodGone("x")
	unready("in two slices", true)
	k.SliceChanged(a, sliceOf("a", "y"))
	unready("in one slice", true)
	k.SliceChanged(b, nil)
	unready("in none", false)
	k.MarkUnready("z", true)
	k.PodGone("z")
	if _, _, n := k.objects(); len(n.Unready)+len(k.gone) > 0 {
		t.Errorf("%v, %v are kept of pods that nobody knows", n.Unready, k.gone)
	}
}

// TestMarkingWhatNoSliceHasWakesNobody: every pod that starts is unready for a while.
func TestMarkingWhatNoSliceHasWakesNobody(t *testing.T) {
	k := NewTracker()
	k.SliceChanged(nil, sliceOf("a", "x"))
	wake := k.subscribe()
	<-wake
	k.MarkUnready("z", true)
	if len(wake) > 0 {
		t.Error("a pod of no slice woke the loop")
	}
	k.MarkUnready("x", true)
	if len(wake) == 0 {
		t.Error("a pod of a slice did not wake the loop")
	}
}

// TestAddressesOfTheMachineStay when the Node object changes, and wake the loop only if they
// change.
func TestAddressesOfTheMachineStay(t *testing.T) {
	k := NewTracker()
	wake := k.subscribe()
	local := []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	for _, c := range []struct {
		local []netip.Addr
		wakes bool
	}{{nil, true}, {local, true}, {local, false}, {nil, true}} {
		for len(wake) > 0 {
			<-wake
		}
		k.AddressesChanged(c.local)
		if woke := len(wake) > 0; woke != c.wakes {
			t.Errorf("with addresses %v the loop was woken: %v", c.local, woke)
		}
		k.NodeChanged(snapshot.Node{Name: "me"}, true)
		if _, _, n := k.objects(); len(n.Local) != len(c.local) {
			t.Errorf("after the Node object changed the addresses are %v, want %v", n.Local, c.local)
		}
	}
}
