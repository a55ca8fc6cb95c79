// Package configmap is EDGE: volumes that show a ConfigMap's keys as files. It reads the ConfigMap
// through volume.Objects; filevolume writes the volume's folder.
package configmap

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
		return nil, errors.New("making configMap volumes: objects is required")
	}
	return filevolume.New(filevolume.Kind{
		Name:    "kubernetes.io/configmap",
		Handles: func(v *corev1.Volume) bool { return v.ConfigMap != nil },
		OnDisk:  true,
		Files: func(ctx context.Context, r volume.Request) (filetree.Files, error) {
			return Files(ctx, objects, r.Pod.Namespace, r.Volume.ConfigMap)
		},
	}), nil
}

// Files are those of one ConfigMap; none when it is missing and optional.
func Files(ctx context.Context, objects volume.Objects, namespace string, v *corev1.ConfigMapVolumeSource) (filetree.Files, error) {
	var data map[string][]byte
	object, err := objects.ConfigMap(ctx, namespace, v.Name)
	if err == nil {
		data = payload.ConfigMap(object)
	}
	return filevolume.OfObject(data, err, payload.Source{
		Kind: "configmap", Items: v.Items, Mode: ptr.Deref(v.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode),
		Optional: ptr.Deref(v.Optional, false),
	})
}
