package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

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

// image is one image of the store with all its names.
type image struct {
	runtime.Image
	name   string // one of its names in the store
	names  []string
	target imagespec.Descriptor
	chain  string // key of the topmost layer's snapshot
}

// blob is what the content of a target says. Content never changes.
type blob struct {
	id     string
	chain  string
	size   int64
	config imagespec.ImageConfig
}

// imageStore is an index of containerd's images. Each image event makes it stale.
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

// stale makes the next reader read the store again.
func (s *imageStore) stale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = false
	s.changes++
}

// refresh reads the store again if it is stale. It does not hold the lock during the round trips.
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
			continue // for another platform, or its content is incomplete
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

// forget drops cached facts about images that are gone.
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

// add records one more name of the image.
func (i *image) add(record images.Image) {
	i.names = append(i.names, record.Name)
	i.Pinned = i.Pinned || record.Labels[pinnedLabel] == "pinned"
	named, err := reference.ParseNamed(record.Name)
	if err != nil {
		if i.name == "" {
			i.name = record.Name // an id, used as a name only if there is no other
		}
		return
	}
	i.name = record.Name
	if _, ok := named.(reference.Tagged); ok {
		i.Tags = append(i.Tags, record.Name)
	}
	i.Digests = append(i.Digests, named.Name()+"@"+record.Target.Digest.String())
}

// blob reads manifest and config of a target, and caches the result.
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

// find resolves a reference: an image id, a name, or a digest under any name of the same
// repository.
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

// sourceLabel, set on a manifest, names the repositories that it was pulled from (containerd
// core/remotes/docker).
const sourceLabel = "containerd.io/distribution.source."

// isID reports whether a reference is an image id, with or without its algorithm.
func isID(ref string) bool {
	_, err := digest.Parse("sha256:" + strings.TrimPrefix(ref, "sha256:"))
	return err == nil
}

func (s *imageStore) byID(ctx context.Context, id string) (*image, error) {
	s.mu.Lock()
	img := s.byImage[id]
	s.mu.Unlock()
	if img != nil {
		return img, nil // even when stale: the content of an id never changes
	}
	return s.find(ctx, id)
}

// unpack creates the snapshots of an image's layers. It goes on after its caller has gone, so that
// the next caller finds them.
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

func (s *imageStore) list(ctx context.Context) ([]images.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	return s.r.client.ImageService().List(ctx)
}
