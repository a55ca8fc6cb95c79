// Package downwardapi is EDGE: volumes that show fields of the pod as files, on a tmpfs. It reads
// the pod; filevolume writes the volume's folder.
package downwardapi

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/filevolume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

// New makes the plugin. Contents follow the pod's labels and annotations.
func New() volume.Plugin {
	return filevolume.New(filevolume.Kind{
		Name:    "kubernetes.io/downward-api",
		Handles: func(v *corev1.Volume) bool { return v.DownwardAPI != nil },
		Files: func(_ context.Context, r volume.Request) (filetree.Files, error) {
			source := r.Volume.DownwardAPI
			mode := ptr.Deref(source.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
			return payload.Downward(r.Pod, source.Items, mode, r.Allocatable)
		},
	})
}
