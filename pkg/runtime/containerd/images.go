package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/passwd"
)

// Deadlines of single calls about images. What takes long by right (downloads) is watched by its
// progress instead.
const (
	imageCallTime   = 30 * time.Second
	imageRemoveTime = 2 * time.Minute  // with the garbage collection that a removal waits for
	unpackTime      = 30 * time.Minute // of all layers of one image
)

// pinnedLabel is how images that must stay are marked in containerd's store, by kind among others.
const pinnedLabel = "io.cri-containerd.pinned"

// image is one image of the store, under all its names.
type image struct {
	runtime.Image
	name   string // one of its names in the store
	names  []string
	target imagespec.Descriptor
	chain  string // key of the topmost layer's snapshot
}

// blob is what the content of a target says, which never changes.
type blob struct {
	id     string
	chain  string
	size   int64
	config imagespec.ImageConfig
}

// imageStore is an index of containerd's images, read anew after each event about one.
type imageStore struct {
	r *Runtime

	mu      sync.Mutex
	fresh   bool
	changes int
	byImage map[string]*image // by id
	byName  map[string]string // name → id
	blobs   map[digest.Digest]blob
	users   map[string]passwd.Database // by id
}

func newImageStore(r *Runtime) *imageStore {
	return &imageStore{r: r, blobs: map[digest.Digest]blob{}, users: map[string]passwd.Database{}}
}

// stale has the next reader read the store.
func (s *imageStore) stale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = false
	s.changes++
}

// refresh reads the store if it has changed. The lock is not held over the round trips.
func (s *imageStore) refresh(ctx context.Context) error {
	s.mu.Lock()
	fresh, changes := s.fresh, s.changes
	s.mu.Unlock()
	if fresh && s.r.view.current() {
		return nil
	}
	records, err := s.list(ctx)
	if err != nil {
		return fmt.Errorf("listing images: %w", native(err))
	}
	byImage, byName := map[string]*image{}, map[string]string{}
	for _, record := range records {
		b, err := s.blob(ctx, record.Target)
		if err != nil {
			if ctx.Err() != nil || errdefs.IsUnavailable(err) || isDeadline(err) {
				return fmt.Errorf("reading image %q: %w", record.Name, native(err))
			}
			continue // not for this platform, or its content is not all here
		}
		img := byImage[b.id]
		if img == nil {
			img = &image{Image: runtime.Image{ID: b.id, Size: b.size, Config: b.config}, target: record.Target, chain: b.chain}
			byImage[b.id] = img
		}
		img.add(record)
		byName[record.Name] = b.id
	}
	for _, img := range byImage {
		slices.Sort(img.Tags)
		slices.Sort(img.Digests)
		img.Digests = slices.Compact(img.Digests)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byImage, s.byName = byImage, byName
	s.fresh = s.changes == changes
	s.forget()
	return nil
}

func (s *imageStore) list(ctx context.Context) ([]images.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	return s.r.client.ImageService().List(ctx)
}

// forget drops what is known of images that are gone.
func (s *imageStore) forget() {
	targets := map[digest.Digest]bool{}
	for _, img := range s.byImage {
		targets[img.target.Digest] = true
	}
	for id := range s.users {
		if s.byImage[id] == nil {
			delete(s.users, id)
		}
	}
	if len(s.blobs) > 4*len(targets)+16 {
		clear(s.blobs)
	}
}

// add gives the image one more name.
func (i *image) add(record images.Image) {
	i.names = append(i.names, record.Name)
	i.Pinned = i.Pinned || record.Labels[pinnedLabel] == "pinned"
	named, err := reference.ParseNamed(record.Name)
	if err != nil {
		if i.name == "" {
			i.name = record.Name // an id as name: of use if there is no other
		}
		return
	}
	i.name = record.Name
	if _, ok := named.(reference.Tagged); ok {
		i.Tags = append(i.Tags, record.Name)
	}
	i.Digests = append(i.Digests, named.Name()+"@"+record.Target.Digest.String())
}

// blob reads manifest and config of a target, once.
func (s *imageStore) blob(ctx context.Context, target imagespec.Descriptor) (blob, error) {
	s.mu.Lock()
	b, ok := s.blobs[target.Digest]
	s.mu.Unlock()
	if ok {
		return b, nil
	}
	ctx, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	cs := s.r.client.ContentStore()
	manifest, err := images.Manifest(ctx, cs, target, platforms.Default())
	if err != nil {
		return blob{}, err
	}
	raw, err := content.ReadBlob(ctx, cs, manifest.Config)
	if err != nil {
		return blob{}, err
	}
	var config imagespec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return blob{}, err
	}
	b = blob{
		id: manifest.Config.Digest.String(), chain: identity.ChainID(config.RootFS.DiffIDs).String(),
		size: manifest.Config.Size + target.Size, config: config.Config,
	}
	for _, l := range manifest.Layers {
		b.size += l.Size
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[target.Digest] = b
	return b, nil
}

// isDeadline says that containerd did not answer in time, whoever noticed first.
func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(native(err))
}

// find looks a reference up: an image id, a name, or a digest under a name of the same repository.
func (s *imageStore) find(ctx context.Context, ref string) (*image, error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if img := s.byImage[ref]; img != nil {
		return img, nil
	}
	if img := s.byImage["sha256:"+ref]; img != nil {
		return img, nil
	}
	if isID(ref) {
		return nil, fmt.Errorf("image %q: %w", ref, runtime.ErrNotFound)
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	if id, ok := s.byName[named.String()]; ok {
		return s.byImage[id], nil
	}
	if _, ok := named.(reference.Digested); ok {
		for _, img := range s.byImage {
			if slices.Contains(img.Digests, named.String()) {
				return img, nil
			}
		}
	}
	return nil, fmt.Errorf("image %q: %w", ref, runtime.ErrNotFound)
}

// sourceLabel on a manifest names the repositories of a registry that it came from (containerd
// core/remotes/docker).
const sourceLabel = "containerd.io/distribution.source."

// repoDigest is where an image that a pod calls ref came from, "repo@sha256:…"; of several
// repositories the pod's own. An image that was only imported came from nowhere: it is called by
// its id.
func (r *Runtime) repoDigest(ctx context.Context, img *image, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	info, err := r.client.ContentStore().Info(ctx, img.target.Digest)
	if err != nil {
		return "", fmt.Errorf("asking where image %q came from: %w", img.name, native(err))
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

// isID says whether a reference is an image id, with or without its algorithm.
func isID(ref string) bool {
	_, err := digest.Parse("sha256:" + strings.TrimPrefix(ref, "sha256:"))
	return err == nil
}

func (s *imageStore) byID(ctx context.Context, id string) (*image, error) {
	s.mu.Lock()
	img := s.byImage[id]
	s.mu.Unlock()
	if img != nil {
		return img, nil // also when stale: the content of an id does not change
	}
	return s.find(ctx, id)
}

// unpack makes the snapshots of an image's layers. It goes on when its caller's time is up: the
// next one finds it done.
func (s *imageStore) unpack(ctx context.Context, img *image) error {
	done := make(chan error, 1)
	ok := s.r.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, unpackTime)
		defer cancel()
		unlock, err := s.r.locks.lock(ctx, "unpack/"+img.chain)
		if err == nil {
			defer unlock()
			record := images.Image{Name: img.name, Target: img.target}
			err = client.NewImageWithPlatform(s.r.client, record, platforms.Default()).Unpack(ctx, s.r.c.Snapshotter)
		}
		done <- err
	})
	if !ok {
		return runtime.ErrUnavailable
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("unpacking image %q: %w", img.name, native(err))
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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

// RemoveImage deletes every name of one image; its content goes with the last.
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
