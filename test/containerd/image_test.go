package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// testImage is the image that every test host has: Debian's static busybox under the names of its
// applets.
const (
	testImage = "nodeagent-test/busybox:1"
	fullName  = "docker.io/nodeagent-test/busybox:1"
)

// importImage puts the image into containerd's store without unpacking it, as kind's preloading may
// leave it.
func (h *host) importImage() {
	h.Helper()
	h.write("image.tar", string(imageTar()))
	h.ctr("images", "import", "--no-unpack", h.path("image.tar"))
}

func imageTar() []byte {
	layer := layerTar()
	blobs := map[string][]byte{}
	add := func(mediaType string, b []byte) imagespec.Descriptor {
		sum := sha256.Sum256(b)
		blobs["blobs/sha256/"+hex.EncodeToString(sum[:])] = b
		return imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	l := add(imagespec.MediaTypeImageLayer, layer)
	config := add(imagespec.MediaTypeImageConfig, encode(imagespec.Image{
		Platform: imagespec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   imagespec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
		RootFS:   imagespec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}},
	}))
	manifest := add(imagespec.MediaTypeImageManifest, encode(imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest,
		Config: config, Layers: []imagespec.Descriptor{l},
	}))
	manifest.Annotations = map[string]string{"io.containerd.image.name": fullName}
	blobs["index.json"] = encode(imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []imagespec.Descriptor{manifest}})
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion": "1.0.0"}`)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, b := range blobs {
		addFile(w, tar.Header{Name: name, Mode: 0o644}, b)
	}
	must(w.Close())
	return out.Bytes()
}

func layerTar() []byte {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		panic(fmt.Sprintf("these tests need the package busybox-static: %v", err))
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"bin", "etc", "proc", "dev", "sys", "tmp"} {
		must(w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	addFile(w, tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, name := range []string{"sh", "sleep", "true", "false", "echo", "cat", "ls", "ps", "hostname", "ip", "dd", "seq", "stty", "id", "nc", "yes", "head", "trap", "tail"} {
		must(w.WriteHeader(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	// An absolute link, as some distributions have: it must be followed inside the image.
	must(w.WriteHeader(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd.real"}))
	addFile(w, tar.Header{Name: "etc/passwd.real", Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"))
	addFile(w, tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nwheel:x:10:app\napp:x:1001:\n"))
	must(w.Close())
	return out.Bytes()
}

func addFile(w *tar.Writer, h tar.Header, b []byte) {
	h.Size = int64(len(b))
	must(w.WriteHeader(&h))
	_, err := w.Write(b)
	must(err)
}

func decode(b []byte, v any) error { return json.Unmarshal(b, v) }

func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}
