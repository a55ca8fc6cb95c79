// Package projected is EDGE: volumes that show Secrets, ConfigMaps, fields of the pod and
// service-account tokens in one folder, on a tmpfs. It reads through volume.Objects; filevolume
// writes the volume's folder.
package projected

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/filevolume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
)

// defaultTokenSeconds is the lifetime of a token when the volume names none.
const defaultTokenSeconds int64 = 3600

// plugin makes the files of projected volumes.
type plugin struct{ objects volume.Objects }

// New makes the plugin. Contents follow their sources, and tokens are renewed.
func New(objects volume.Objects) (volume.Plugin, error) {
	if objects == nil {
		return nil, errors.New("making projected volumes: objects is required")
	}
	return filevolume.New(filevolume.Kind{
		Name:    "kubernetes.io/projected",
		Handles: func(v *corev1.Volume) bool { return v.Projected != nil },
		Files:   plugin{objects}.files,
	}), nil
}

// files are those of every source; a later source replaces files of an earlier one.
func (p plugin) files(ctx context.Context, r volume.Request) (filetree.Files, error) {
	mode := ptr.Deref(r.Volume.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	files := filetree.Files{}
	var all error
	for i := range r.Volume.Projected.Sources {
		more, err := p.source(ctx, r, &r.Volume.Projected.Sources[i], mode)
		all = errors.Join(all, err)
		maps.Copy(files, more)
	}
	return files, all
}

func (p plugin) source(ctx context.Context, r volume.Request, s *corev1.VolumeProjection, mode int32) (filetree.Files, error) {
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
		return payload.Downward(r.Pod, s.DownwardAPI.Items, mode, r.Allocatable)
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

// token is the file of a service-account token. Only its user may read it if that user is known: by
// fsGroup, or because all containers run as one user.
func (p plugin) token(ctx context.Context, r volume.Request, s *corev1.ServiceAccountTokenProjection, mode int32) (filetree.Files, error) {
	token, err := p.objects.Token(ctx, r.Pod, s.Audience, ptr.Deref(s.ExpirationSeconds, defaultTokenSeconds))
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	file := filetree.File{Data: []byte(token), Mode: fs.FileMode(mode), Owner: onlyUser(r.Pod)}
	if file.Owner != nil || r.FSGroup != nil {
		file.Mode = 0o600
	}
	files := filetree.Files{}
	return files, files.Put(s.Path, file)
}

// onlyUser is the runAsUser of all containers; nil if they differ or one has none.
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
