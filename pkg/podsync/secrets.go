package podsync

import (
	"context"
	"errors"
	"log/slog"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/pullsecret"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// secretReader is the part of volume.Objects that is needed here.
type secretReader interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// APISecrets are the PullSecrets that pods name in imagePullSecrets.
type APISecrets struct {
	objects secretReader
	log     *slog.Logger
}

// NewAPISecrets makes APISecrets.
func NewAPISecrets(objects secretReader, log *slog.Logger) (*APISecrets, error) {
	if objects == nil || log == nil {
		return nil, errors.New("making the reader of pull secrets: objects and log are required")
	}
	return &APISecrets{objects: objects, log: log}, nil
}

// Credentials reads the pod's imagePullSecrets. It names those that it cannot read, and uses the
// others.
func (s *APISecrets) Credentials(ctx context.Context, pod *corev1.Pod, image string) (found []runtime.Credentials, missing []string) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, nil // the pull itself says so
	}
	var entries []pullsecret.Entry
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := s.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		logins, err := pullsecret.Parse(secret)
		if err != nil {
			s.log.Warn("Image pull secret not understood", "pod", pod.Namespace+"/"+pod.Name, "secret", ref.Name, "err", err)
			continue
		}
		entries = append(entries, logins...)
	}
	return pullsecret.For(entries, named.Name()), missing
}
