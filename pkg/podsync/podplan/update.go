package podplan

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Update is the newest that a source says of one pod. Its objects are never written to.
type Update struct {
	UID types.UID
	// Pod is never nil; when Gone, it is the last that was known.
	Pod *corev1.Pod
	// Gone says that the source has the pod no longer.
	Gone bool
	// Static says that the pod is defined on this node.
	Static bool
	// Mirror is the API object that shows a static pod; nil while there is none.
	Mirror *corev1.Pod
}

// Object is the API object that the pod's status is written to; nil when there is none.
func (u Update) Object() *corev1.Pod {
	switch {
	case u.Static:
		return u.Mirror
	case u.Gone:
		return nil
	}
	return u.Pod
}
