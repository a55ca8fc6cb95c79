// Package projected is EDGE: volumes that show Secrets, ConfigMaps, fields of the pod and
// service-account tokens in one folder, on a tmpfs. It reads through volume.Objects and writes the
// volume's folder.
package projected

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
)

// defaultTokenSeconds is how long a token lives when the pod does not say.
const defaultTokenSeconds = 3600

// Plugin is a volume.Plugin and volume.Refresher.
type Plugin struct{ objects volume.Objects }

// New makes the plugin.
func New(objects volume.Objects) (*Plugin, error) {
	if objects == nil {
		return nil, errors.New("making projected volumes: Objects is required")
	}
	return &Plugin{objects: objects}, nil
}

// Name is the kind's name.
func (*Plugin) Name() string { return "kubernetes.io/projected" }

// Handles says whether the volume is projected.
func (*Plugin) Handles(v *corev1.Volume) bool { return v.Projected != nil }

// Refreshes is true: contents follow their sources, and tokens are renewed.
func (*Plugin) Refreshes() bool { return true }

// Mount shows the newest contents of every source.
func (p *Plugin) Mount(ctx context.Context, r volume.Request) (bool, error) {
	mode := corev1.ProjectedVolumeSourceDefaultMode
	if r.Volume.Projected.DefaultMode != nil {
		mode = *r.Volume.Projected.DefaultMode
	}
	files := payload.Files{}
	var all error
	for i := range r.Volume.Projected.Sources {
		more, err := p.source(ctx, r, &r.Volume.Projected.Sources[i], mode)
		all = errors.Join(all, err)
		maps.Copy(files, more)
	}
	if all != nil {
		return false, all
	}
	return hostfs.Show(hostfs.Folder{Path: r.Target, Memory: true, Group: r.FSGroup, Nested: files.Nest(r.Pod, r.Volume.Name)}, files)
}

// Unmount removes the folder.
func (*Plugin) Unmount(_ context.Context, target string) error { return hostfs.Hide(target) }

func (p *Plugin) source(ctx context.Context, r volume.Request, s *corev1.VolumeProjection, mode int32) (payload.Files, error) {
	switch {
	case s.ConfigMap != nil:
		return configmap.Files(ctx, p.objects, r.Pod.Namespace, &corev1.ConfigMapVolumeSource{
			LocalObjectReference: s.ConfigMap.LocalObjectReference,
			Items:                s.ConfigMap.Items, Optional: s.ConfigMap.Optional, DefaultMode: &mode,
		})
	case s.Secret != nil:
		return secret.Files(ctx, p.objects, r.Pod.Namespace, &corev1.SecretVolumeSource{
			SecretName: s.Secret.Name, Items: s.Secret.Items, Optional: s.Secret.Optional, DefaultMode: &mode,
		})
	case s.DownwardAPI != nil:
		files := payload.Files{}
		return files, files.Downward(r.Pod, s.DownwardAPI.Items, mode, r.Fields.Allocatable)
	case s.ServiceAccountToken != nil:
		return p.token(ctx, r, s.ServiceAccountToken, mode)
	case s.ClusterTrustBundle != nil:
		return nil, errors.New("projected source clusterTrustBundle is not supported yet")
	case s.PodCertificate != nil:
		return nil, errors.New("projected source podCertificate is not supported yet")
	default:
		return nil, nil
	}
}

// token is readable by its user alone where that user can be told: by fsGroup, or because all
// containers run as one user.
func (p *Plugin) token(ctx context.Context, r volume.Request, s *corev1.ServiceAccountTokenProjection, mode int32) (payload.Files, error) {
	seconds := int64(defaultTokenSeconds)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	token, err := p.objects.Token(ctx, r.Pod, s.Audience, seconds)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	file := payload.File{Data: []byte(token), Mode: fs.FileMode(mode), Owner: onlyUser(r.Pod)}
	if file.Owner != nil || r.FSGroup != nil {
		file.Mode = 0o600
	}
	files := payload.Files{}
	return files, files.Put(s.Path, file)
}

// onlyUser is the runAsUser that all containers have, nil if they differ or one has none.
func onlyUser(pod *corev1.Pod) *int64 {
	var only *int64
	for _, c := range podspec.Containers(pod) {
		user := runAsUser(pod, c)
		if user == nil || (only != nil && *only != *user) {
			return nil
		}
		only = user
	}
	return only
}

func runAsUser(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}
