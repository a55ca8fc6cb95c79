// Package downwardapi is EDGE: volumes that show fields of the pod as files, on a tmpfs. It reads
// the pod and writes the volume's folder.
package downwardapi

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

// Plugin is a volume.Plugin and volume.Refresher; its zero value is ready.
type Plugin struct{}

// Name is the kind's name.
func (Plugin) Name() string { return "kubernetes.io/downward-api" }

// Handles says whether the volume is a downward API volume.
func (Plugin) Handles(v *corev1.Volume) bool { return v.DownwardAPI != nil }

// Refreshes is true: contents follow the pod's labels and annotations.
func (Plugin) Refreshes() bool { return true }

// Mount shows the pod as it is now.
func (Plugin) Mount(_ context.Context, r volume.Request) (bool, error) {
	mode := corev1.DownwardAPIVolumeSourceDefaultMode
	if r.Volume.DownwardAPI.DefaultMode != nil {
		mode = *r.Volume.DownwardAPI.DefaultMode
	}
	files := payload.Files{}
	if err := files.Downward(r.Pod, r.Volume.DownwardAPI.Items, mode, r.Fields.Allocatable); err != nil {
		return false, err
	}
	return hostfs.Show(hostfs.Folder{Path: r.Target, Memory: true, Group: r.FSGroup, Nested: files.Nest(r.Pod, r.Volume.Name)}, files)
}

// Unmount removes the folder.
func (Plugin) Unmount(_ context.Context, target string) error { return hostfs.Hide(target) }
