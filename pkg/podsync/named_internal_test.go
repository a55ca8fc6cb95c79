package podsync

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func TestTheInstanceThatTheAPIServerKnowsHasTheName(t *testing.T) {
	for _, uids := range [][2]types.UID{{"a", "b"}, {"b", "a"}} { // whichever comes first
		l := &Loop{store: store{entries: map[types.UID]*entry{}}}
		old, successor := uids[0], uids[1]
		put := func(uid types.UID, gone bool) {
			l.store.put(podspec.Update{UID: uid, Gone: gone, Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "db-0", UID: uid}}})
		}
		put(old, false)
		put(old, true) // kubectl delete --force
		if p := l.Named("d", "db-0"); p != nil {
			t.Errorf("a pod that was deleted by force is found: %s", p.UID)
		}
		put(successor, false)
		if p := l.Named("d", "db-0"); p == nil || p.UID != successor {
			t.Errorf("the name belongs to %v, want %s", p, successor)
		}
	}
}
