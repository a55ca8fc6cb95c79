// Package configmap is EDGE: volumes that show a ConfigMap's keys as files. It reads the ConfigMap
// through volume.Objects and writes the volume's folder.
package configmap

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

// Plugin is a volume.Plugin and volume.Refresher.
type Plugin struct{ objects volume.Objects }

// New makes the plugin.
func New(objects volume.Objects) (*Plugin, error) {
	if objects == nil {
		return nil, errors.New("making configMap volumes: Objects is required")
	}
	return &Plugin{objects: objects}, nil
}

// Name is the kind's name.
func (*Plugin) Name() string { return "kubernetes.io/configmap" }

// Handles says whether the volume is a ConfigMap.
func (*Plugin) Handles(v *corev1.Volume) bool { return v.ConfigMap != nil }

// Refreshes is true: contents follow the ConfigMap.
func (*Plugin) Refreshes() bool { return true }

// Mount shows the newest contents.
func (p *Plugin) Mount(ctx context.Context, r volume.Request) (bool, error) {
	files, err := Files(ctx, p.objects, r.Pod.Namespace, r.Volume.ConfigMap)
	if err != nil {
		return false, err
	}
	return hostfs.Show(hostfs.Folder{Path: r.Target, Group: r.FSGroup, Nested: files.Nest(r.Pod, r.Volume.Name)}, files)
}

// Unmount removes the folder.
func (*Plugin) Unmount(_ context.Context, target string) error { return hostfs.Hide(target) }

// Files are those of one ConfigMap; none when it is missing and optional.
func Files(ctx context.Context, objects volume.Objects, namespace string, v *corev1.ConfigMapVolumeSource) (payload.Files, error) {
	files := payload.Files{}
	optional := v.Optional != nil && *v.Optional
	object, err := objects.ConfigMap(ctx, namespace, v.Name)
	if apierrors.IsNotFound(err) && optional {
		return files, nil
	}
	if err != nil {
		return nil, err
	}
	mode := corev1.ConfigMapVolumeSourceDefaultMode
	if v.DefaultMode != nil {
		mode = *v.DefaultMode
	}
	return files, files.ConfigMap(object, payload.Source{Items: v.Items, Mode: mode, Optional: optional, What: "configmap"})
}
