package render

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
)

// source answers from the file as the API server would.
type source struct{ *Objects }

var _ volume.Objects = source{}

// ConfigMap implements volume.Objects.
func (s source) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return named(s.ConfigMaps, "configmaps", namespace, name)
}

// Secret implements volume.Objects. stringData is merged as the API server does.
func (s source) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	found, err := named(s.Secrets, "secrets", namespace, name)
	if err != nil || len(found.StringData) == 0 {
		return found, err
	}
	found = found.DeepCopy()
	data := make(map[string][]byte, len(found.Data)+len(found.StringData))
	maps.Copy(data, found.Data)
	for key, value := range found.StringData {
		data[key] = []byte(value)
	}
	found.Data, found.StringData = data, nil
	return found, nil
}

func named[T metav1.Object](list []T, resource, namespace, name string) (T, error) {
	for _, o := range list {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o, nil
		}
	}
	var none T
	return none, apierrors.NewNotFound(corev1.Resource(resource), name)
}

// Token implements volume.Objects.
func (source) Token(_ context.Context, _ *corev1.Pod, audience string, _ int64) (string, error) {
	return fmt.Sprintf("<token for %s>", audience), nil
}

// Services implements volume.Objects: those of the namespace, and default/kubernetes.
func (s source) Services(namespace string) ([]*corev1.Service, error) {
	var out []*corev1.Service
	for _, svc := range s.Objects.Services {
		if svc.Namespace == namespace || svc.Namespace == metav1.NamespaceDefault && svc.Name == "kubernetes" {
			out = append(out, svc)
		}
	}
	return out, nil
}

// Use implements volume.Objects.
func (source) Use(*corev1.Pod) {}

// Forget implements volume.Objects.
func (source) Forget(types.UID) {}

// users resolves ids; names are for the image's files, which are not at hand, or for the caller.
type users map[string]runtime.User

// User implements containerconfig.Users.
func (u users) User(_ context.Context, _, user string) (runtime.User, error) {
	if found, ok := u[user]; ok {
		return found, nil
	}
	if user == "" {
		return runtime.User{}, nil
	}
	found, err := ParseUser(user)
	if err != nil {
		return found, fmt.Errorf("user %q is named, and the image's /etc/passwd is not at hand: give --user %s=UID:GID", user, user)
	}
	return found, nil
}

// ParseUser reads "UID" or "UID:GID".
func ParseUser(text string) (runtime.User, error) {
	uid, gid, both := strings.Cut(text, ":")
	if !both {
		gid = "0"
	}
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return runtime.User{}, fmt.Errorf("reading user %q: it must be UID or UID:GID", text)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return runtime.User{}, fmt.Errorf("reading user %q: it must be UID or UID:GID", text)
	}
	return runtime.User{UID: uint32(u), GID: uint32(g)}, nil
}

// groups are the names of control groups alone.
type groups struct{ cgroup.Layout }

// RemovePod implements containerconfig.Cgroups.
func (groups) RemovePod(context.Context, types.UID) error { return nil }

// Pods implements containerconfig.Cgroups.
func (groups) Pods() ([]types.UID, error) { return nil, nil }
