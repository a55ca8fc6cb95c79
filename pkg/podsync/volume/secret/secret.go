// Package secret is EDGE: volumes that show a Secret's keys as files on a tmpfs, so that they never
// reach a disk. It reads the Secret through volume.Objects; filevolume writes the volume's folder.
package secret

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/filevolume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

// New makes the plugin.
func New(objects volume.Objects) (volume.Plugin, error) {
	if objects == nil {
		return nil, errors.New("making secret volumes: objects is required")
	}
	return filevolume.New(filevolume.Kind{
		Name:    "kubernetes.io/secret",
		Handles: func(v *corev1.Volume) bool { return v.Secret != nil },
		Files: func(ctx context.Context, r volume.Request) (filetree.Files, error) {
			return Files(ctx, objects, r.Pod.Namespace, r.Volume.Secret)
		},
	}), nil
}

// Files are those of one Secret; none when it is missing and optional.
func Files(ctx context.Context, objects volume.Objects, namespace string, v *corev1.SecretVolumeSource) (filetree.Files, error) {
	var data map[string][]byte
	object, err := objects.Secret(ctx, namespace, v.SecretName)
	if err == nil {
		data = object.Data
	}
	return filevolume.OfObject(data, err, payload.Source{
		Kind: "secret", Items: v.Items, Mode: ptr.Deref(v.DefaultMode, corev1.SecretVolumeSourceDefaultMode),
		Optional: ptr.Deref(v.Optional, false),
	})
}
