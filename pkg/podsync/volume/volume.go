// Package volume is a CONTRACT: what makes the volumes of a pod ready on the host. Each kind of
// volume is a Plugin in a package of its own below this one; plugins lists them, and volumetest has
// the suite that every plugin passes.
//
// # A life
//
// A pod with a configMap volume "conf" comes to the node. The planner names the volume, and
// volumeset picks the plugin that Handles it. Mount makes the target
//
//	<root>/pods/<uid>/volumes/kubernetes.io~configmap/conf
//
// and fills it; only then do the pod's containers start, with the target bind-mounted into them.
// The target is the plugin's name with ~ for /, as CSI drivers and log shippers know it; a Pather
// has its volumes elsewhere. When the ConfigMap changes, and at intervals, Mount runs again and
// brings the target up to date, for plugins that are Refreshers. A failed Mount is repeated with a
// back-off. When the agent restarts, it mounts every volume of every pod again and finds them
// ready. When the pod's containers have ended, Unmount removes the target with what is mounted
// there or below. By then the pod may be unknown to the API server and to the agent: Unmount gets
// nothing but the path.
//
// # The rules
//
// Mount and Unmount are idempotent: a Mount that was cut off half way is completed by the next one,
// and a target that is seen is complete. The host's folders and mount table tell what there is,
// never the agent's memory. What containers can write to is hostile: only hostfs touches it.
// volumeset calls a plugin for one target at a time, and for different targets concurrently.
package volume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Plugin makes one kind of volume.
type Plugin interface {
	// Name is the kind's name, domain/kind, as in "kubernetes.io/configmap". It names folders on
	// the host: another name loses the volumes of running pods.
	Name() string
	// Handles reports whether the volume is of this kind. The first plugin that says so gets it.
	Handles(v *corev1.Volume) bool
	// Mount makes the volume ready at r.Target, or brings it up to date. changed says that the
	// target did not show these contents before.
	Mount(ctx context.Context, r Request) (changed bool, err error)
	// Unmount undoes Mount and removes the target. A target that does not exist is no error.
	Unmount(ctx context.Context, target string) error
}

// Pather is a Plugin whose volumes are not below the pod's folder (hostPath). They belong to the
// host: Unmount is never called for them.
type Pather interface {
	// Path is where the volume is on the host.
	Path(v *corev1.Volume) string
}

// Refresher is a Plugin whose contents may change after the first Mount (configMap, secret,
// projected, downwardAPI). Containers get its volumes read-only.
type Refresher interface {
	Refreshes() bool
}

// Request is one volume to make ready. A plugin does not write to the objects in it.
type Request struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	Target string // folder on the host; of a Pather, the volume's Path
	// FSGroup is the group that owns the files; nil: none.
	FSGroup *int64
	// Allocatable is what the node can give, for limits that a container does not set; nil: not
	// known.
	Allocatable corev1.ResourceList
}

// Objects reads the API objects that volumes and environment variables name, through a cache that
// watches what pods on this node use.
type Objects interface {
	// ConfigMap and Secret return the newest known object; a NotFound API error when there is none.
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a bound service-account token, cached until 80 % of its lifetime.
	Token(ctx context.Context, pod *corev1.Pod, audience string, expirationSeconds int64) (string, error)
	// Services returns the Services of the namespace and default/kubernetes, for the environment of
	// containers.
	Services(namespace string) ([]*corev1.Service, error)
	// Use announces a pod that is about to start. The objects that its spec names are watched from
	// now on, and the first read of each asks the API server, so that the pod gets nothing older
	// than itself. It may be called again.
	Use(pod *corev1.Pod)
	// Forget drops what only this pod used.
	Forget(pod types.UID)
}
