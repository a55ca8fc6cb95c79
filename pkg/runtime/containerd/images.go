package containerd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Deadlines of single image calls. Downloads may rightly take long and have a progress deadline
// instead.
const (
	imageCallTime   = 30 * time.Second
	imageRemoveTime = 2 * time.Minute  // includes the garbage collection it triggers
	unpackTime      = 30 * time.Minute // of all layers of one image
)

// pinnedLabel marks images that must never be removed; kind and CRI use it too.
const pinnedLabel = "io.cri-containerd.pinned"

// repoDigest returns where an image came from, "repo@sha256:…". If it came from several
// repositories, the one that ref names wins. An image that was imported rather than pulled has no
// source; its id is returned instead.
func (r *Runtime) repoDigest(ctx context.Context, img *image, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	info, err := r.client.ContentStore().Info(ctx, img.target.Digest)
	if err != nil {
		return "", fmt.Errorf("reading the source of image %q: %w", img.name, native(err))
	}
	repo := ""
	if named, err := reference.ParseDockerRef(ref); err == nil {
		repo = named.Name()
	}
	found := img.ID
	for _, name := range slices.Sorted(slices.Values(img.names)) {
		named, err := reference.ParseNamed(name)
		if err != nil {
			continue
		}
		_, byDigest := named.(reference.Digested)
		host, _, _ := strings.Cut(reference.Domain(named), ":")
		if !byDigest && !slices.Contains(strings.Split(info.Labels[sourceLabel+host], ","), reference.Path(named)) {
			continue
		}
		digest := named.Name() + "@" + img.target.Digest.String()
		if named.Name() == repo {
			return digest, nil
		}
		if found == img.ID {
			found = digest
		}
	}
	return found, nil
}

// Image finds an image by any reference that a pod may name.
func (r *Runtime) Image(ctx context.Context, ref string) (runtime.Image, error) {
	img, err := r.images.find(ctx, ref)
	if err != nil {
		return runtime.Image{}, err
	}
	return img.Image, nil
}

// Images lists the store, largest first.
func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	if err := r.images.refresh(ctx); err != nil {
		return nil, err
	}
	r.images.mu.Lock()
	defer r.images.mu.Unlock()
	all := make([]runtime.Image, 0, len(r.images.byImage))
	for _, img := range r.images.byImage {
		all = append(all, img.Image)
	}
	slices.SortFunc(all, func(a, b runtime.Image) int { return cmp.Or(-cmp.Compare(a.Size, b.Size), strings.Compare(a.ID, b.ID)) })
	return all, nil
}

// RemoveImage deletes every name of one image; containerd then collects its content.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	r.images.stale()
	if err := r.images.refresh(ctx); err != nil {
		return err
	}
	r.images.mu.Lock()
	img := r.images.byImage[id]
	r.images.mu.Unlock()
	if img == nil {
		return nil
	}
	defer r.images.stale()
	ctx, cancel := context.WithTimeout(ctx, imageRemoveTime)
	defer cancel()
	for i, name := range img.names {
		var opts []images.DeleteOpt
		if i == len(img.names)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := r.client.ImageService().Delete(ctx, name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("removing image %q: %w", name, native(err))
		}
	}
	return nil
}
