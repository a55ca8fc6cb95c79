// Package filevolume is EDGE: the frame of every kind of volume whose files the agent writes:
// configMap, secret, downwardAPI, projected. A kind says which files there are; the frame shows
// them in the volume's folder, all at once, and again when they change. It alone writes that
// folder.
package filevolume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

// Kind is what one kind of volume adds to the frame.
type Kind struct {
	Name    string // as in volume.Plugin
	Handles func(v *corev1.Volume) bool
	// OnDisk keeps the files on disk. The default is a tmpfs, so that secrets never reach a disk.
	OnDisk bool
	// Files are those that the volume shows now.
	Files func(ctx context.Context, r volume.Request) (filetree.Files, error)
}

// Plugin is a volume.Plugin and volume.Refresher.
type Plugin struct{ kind Kind }

// New makes the plugin of a kind.
func New(k Kind) *Plugin { return &Plugin{kind: k} }

// Name is the kind's name.
func (p *Plugin) Name() string { return p.kind.Name }

// Handles reports whether the volume is of this kind.
func (p *Plugin) Handles(v *corev1.Volume) bool { return p.kind.Handles(v) }

// Refreshes is true: the contents follow their sources.
func (*Plugin) Refreshes() bool { return true }

// Mount shows the newest files.
func (p *Plugin) Mount(ctx context.Context, r volume.Request) (bool, error) {
	files, err := p.kind.Files(ctx, r)
	if err != nil {
		return false, err
	}
	folder := hostfs.Folder{Path: r.Target, Memory: !p.kind.OnDisk, Group: r.FSGroup, Nested: payload.Nest(files, r.Pod, r.Volume.Name)}
	return hostfs.Show(folder, files)
}

// Unmount removes the folder.
func (*Plugin) Unmount(_ context.Context, target string) error { return hostfs.Hide(target) }

// OfObject are the files of an API object that data and err were read from: none when the object is
// missing and optional.
func OfObject(data map[string][]byte, err error, s payload.Source) (filetree.Files, error) {
	if apierrors.IsNotFound(err) && s.Optional {
		return filetree.Files{}, nil
	}
	if err != nil {
		return nil, err
	}
	return payload.Keys(data, s)
}
