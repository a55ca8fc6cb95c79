package images

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// agnhostFiles are the files beside the program: users that the suite asks for, the upload folder,
// a certificate, and a small registry that holds pause.
func (b *builder) agnhostFiles(ctx context.Context) ([]entry, error) {
	cert, key, err := localhostCertificate()
	if err != nil {
		return nil, err
	}
	entries := []entry{
		dir("uploads", 0o755), text("localhost.crt", cert), text("localhost.key", key),
		// uid 1000 belongs to gid 50000 in the image itself, which SupplementalGroups specs look
		// for.
		text("etc/passwd", strings.Join([]string{
			"root:x:0:0:root:/root:/bin/sh", "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin", "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin",
			"nobody:x:65534:65534:nobody:/:/usr/sbin/nologin", "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh", "",
		}, "\n")),
		text("etc/group", "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"),
		{path: "home/user-defined-in-image", mode: os.ModeDir | 0o755, uid: 1000, gid: 1000},
	}
	if b.tools.CoreDNS != "" {
		entries = append(entries, program("coredns", b.tools.CoreDNS))
	}
	reg, err := b.fakeRegistry(ctx)
	return append(entries, reg...), err
}

// fakeRegistry is what `agnhost fake-registry-server` serves: pause:testing as an index of one
// manifest, everything below the path of its digest, and the tag as a file that holds a digest.
func (b *builder) fakeRegistry(ctx context.Context) ([]entry, error) {
	layer, err := b.layer(ctx, "pause")
	if err != nil {
		return nil, err
	}
	img, err := assemble("pause:testing", recipes()[pauseRef].config, []blob{layer})
	if err != nil {
		return nil, err
	}
	d := describe(imagespec.MediaTypeImageManifest, img.manifest)
	d.Platform = &imagespec.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	index, err := json.Marshal(imagespec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{d},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the index of pause: %w", err)
	}
	const root = "var/registry/pause/"
	at := func(kind, digest string) string {
		hash := strings.TrimPrefix(digest, "sha256:")
		return root + kind + "/sha256/" + hash[:2] + "/" + hash + "/data"
	}
	return []entry{
		text(at("manifests", sum(index)), string(index)), text(root+"manifests/testing", sum(index)),
		text(at("manifests", sum(img.manifest)), string(img.manifest)), text(at("blobs", sum(img.config)), string(img.config)),
		{path: at("blobs", layer.digest), mode: 0o644, source: layer.path},
	}, nil
}

func localhostCertificate() (cert, key string, err error) {
	// no secret: every test image has it
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: epoch(), NotAfter: epoch().Add(100 * 365 * 24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, private.Public(), private)
	if err != nil {
		return "", "", fmt.Errorf("making localhost's certificate: %w", err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("encoding localhost's key: %w", err)
	}
	enc := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return enc("CERTIFICATE", der), enc("PRIVATE KEY", pk), nil
}
