package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// assembled is an image without its layers' bytes.
type assembled struct {
	ref              string
	config, manifest []byte
	layers           []blob
}

// assemble writes the config and the manifest of an image.
func assemble(ref string, config imagespec.ImageConfig, layers []blob) (assembled, error) {
	created := epoch()
	img := imagespec.Image{
		Created:  &created,
		Platform: imagespec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   config,
		RootFS:   imagespec.RootFS{Type: "layers"},
	}
	m := imagespec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest}
	for _, l := range layers {
		// the layer is not compressed
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.Digest(l.digest))
		m.Layers = append(m.Layers, imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayer, Digest: digest.Digest(l.digest), Size: l.size})
	}
	c, err := json.Marshal(img)
	if err != nil {
		return assembled{}, fmt.Errorf("encoding image config: %w", err)
	}
	m.Config = describe(imagespec.MediaTypeImageConfig, c)
	b, err := json.Marshal(m)
	if err != nil {
		return assembled{}, fmt.Errorf("encoding image manifest: %w", err)
	}
	return assembled{ref: ref, config: c, manifest: b, layers: layers}, nil
}

func describe(mediaType string, b []byte) imagespec.Descriptor {
	return imagespec.Descriptor{MediaType: mediaType, Digest: digest.Digest(sum(b)), Size: int64(len(b))}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

// writeArchive writes an OCI layout with all the images, layers that they share once.
func writeArchive(path string, images []assembled) error {
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	small, large := map[string][]byte{}, map[string]blob{}
	for _, i := range images {
		d := describe(imagespec.MediaTypeImageManifest, i.manifest)
		d.Platform = &imagespec.Platform{Architecture: runtime.GOARCH, OS: "linux"}
		d.Annotations = map[string]string{"io.containerd.image.name": i.ref, imagespec.AnnotationRefName: i.ref}
		index.Manifests = append(index.Manifests, d)
		small[sum(i.manifest)], small[sum(i.config)] = i.manifest, i.config
		for _, l := range i.layers {
			large[l.digest] = l
		}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encoding image index: %w", err)
	}
	f, err := os.Create(path + ".part")
	if err != nil {
		return fmt.Errorf("making image archive: %w", err)
	}
	w := tar.NewWriter(f)
	err = errors.Join(
		addBytes(w, imagespec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)),
		addBytes(w, imagespec.ImageIndexFile, b),
	)
	for _, d := range sorted(small) {
		err = errors.Join(err, addBytes(w, blobPath(d), small[d]))
	}
	for _, d := range sorted(large) {
		err = errors.Join(err, addFile(w, blobPath(d), large[d]))
	}
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		return fmt.Errorf("writing image archive %q: %w", path, err)
	}
	return os.Rename(path+".part", path)
}

func blobPath(digest string) string {
	return imagespec.ImageBlobsDir + "/sha256/" + digest[len("sha256:"):]
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func addBytes(w *tar.Writer, name string, b []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: epoch()}); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(b))
	return err
}

func addFile(w *tar.Writer, name string, l blob) error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: l.size, ModTime: epoch()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
