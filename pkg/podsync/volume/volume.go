// Package volume is a CONTRACT: what makes the volumes of a pod ready on the host. Each kind of
// volume is a Plugin in a package of its own below this one; volumetest has the suite that every
// plugin passes.
//
// A volume is mounted at <root>/pods/<uid>/volumes/<plugin name with ~ for />/<volume name> (the
// layout that CSI drivers and log shippers know), except where a plugin says otherwise by Path.
// Mount and Unmount are idempotent; what exists is told by the host's folders and mount table,
// never by memory.
package volume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Plugin makes one kind of volume.
type Plugin interface {
	// Name is the kind's name, as in "kubernetes.io/configmap".
	Name() string
	Handles(v *corev1.Volume) bool
	// Mount makes the volume ready at r.Target, and is also how contents are refreshed; changed
	// says that they differ.
	Mount(ctx context.Context, r Request) (changed bool, err error)
	// Unmount undoes Mount and removes the target. A target that does not exist is no error.
	Unmount(ctx context.Context, target string) error
}

// Pather is a Plugin whose volumes are not at the usual place (hostPath).
type Pather interface {
	Path(v *corev1.Volume) string
}

// Refresher is a Plugin whose contents may change after the mount (configMap, secret, projected,
// downwardAPI).
type Refresher interface {
	Refreshes() bool
}

// Request is one volume to be made ready.
type Request struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	Target string // folder on the host
	// FSGroup owns the files when not nil.
	FSGroup *int64
	// PodIPs and host facts, for downward API fields.
	Fields Fields
}

// Fields are what downward API fields may name beside the pod's own.
type Fields struct {
	PodIPs, HostIPs []string
	// Allocatable of the node, for limits that a container does not set.
	Allocatable corev1.ResourceList
}

// Objects reads what volumes and environment name in the API, through a cache that watches what
// pods on this node use.
type Objects interface {
	// ConfigMap and Secret return the newest known object; a NotFound API error when there is none.
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a bound service-account token, cached until 80 % of its life.
	Token(ctx context.Context, pod *corev1.Pod, audience string, expirationSeconds int64) (string, error)
	// Services returns the Services of the namespace and of "default"'s kubernetes, for the
	// environment of containers.
	Services(namespace string) ([]*corev1.Service, error)
	// Use says that a pod is about to be started from the objects that its spec names: they are
	// watched from now on, and the first reading of each asks the API server, so that nothing from
	// before the pod is served. It may be called again.
	Use(pod *corev1.Pod)
	// Forget drops what only this pod used.
	Forget(pod types.UID)
}
