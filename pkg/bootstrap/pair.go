package bootstrap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Pairs keeps a certificate with its key, and the one before it, in one folder, as kubelet does:
// each pair in one PEM file "<name>-<time>.pem" (0600) and a link "<name>-current.pem" to the
// newest. client-go has such a store too; this one also syncs to disk, so that after a power cut
// either the old pair or the new one is complete.
type Pairs struct {
	dir, name string
}

// NewPairs makes a store and touches no file.
func NewPairs(dir, name string) *Pairs { return &Pairs{dir, name} }

// Path is the link to the newest pair.
func (p *Pairs) Path() string { return filepath.Join(p.dir, p.name+"-current.pem") }

// keyPath is the file of the key that waits for its certificate.
func (p *Pairs) keyPath() string { return filepath.Join(p.dir, p.name+".key.pending") }

// Current reads the newest pair; fs.ErrNotExist when there is none.
func (p *Pairs) Current() (*tls.Certificate, error) { return loadPair(p.Path()) }

func loadPair(path string) (*tls.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("reading certificate and key %q: %w", path, err)
	}
	return &c, nil
}

// Best reads all pairs and returns the newest for which good is true; nil if there is none.
func (p *Pairs) Best(good func(leaf *x509.Certificate) bool) *tls.Certificate {
	files, err := filepath.Glob(filepath.Join(p.dir, p.name+"-[0-9]*.pem"))
	if err != nil {
		files = nil
	}
	var best *tls.Certificate
	for _, f := range append(files, p.Path()) {
		pair, err := loadPair(f)
		if err != nil || !good(leafOf(pair)) {
			continue
		}
		if best == nil || leafOf(pair).NotBefore.After(leafOf(best).NotBefore) {
			best = pair
		}
	}
	return best
}

// Save makes a pair the newest. It removes the pending key and all older pairs but one.
func (p *Pairs) Save(certPEM, keyPEM []byte, now time.Time) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("pairing the certificate with its key: %w", err)
	}
	name := fmt.Sprintf("%s-%s.pem", p.name, now.UTC().Format("2006-01-02-15-04-05.000000"))
	both := append(append(bytes.TrimSpace(certPEM), '\n'), keyPEM...)
	if err := writeFile(filepath.Join(p.dir, name), both, 0o600); err != nil {
		return nil, err
	}
	if err := link(name, p.Path()); err != nil {
		return nil, err
	}
	if err := remove(p.keyPath()); err != nil {
		return nil, err
	}
	p.prune(name)
	return &c, nil
}

// prune ignores errors: an old pair that stays does no harm.
func (p *Pairs) prune(newest string) {
	all, err := filepath.Glob(filepath.Join(p.dir, p.name+"-[0-9]*.pem"))
	if err != nil {
		return
	}
	slices.Sort(all)
	all = slices.DeleteFunc(all, func(f string) bool { return filepath.Base(f) == newest })
	for i := 0; i < len(all)-1; i++ {
		_ = os.Remove(all[i])
	}
}

// pendingKey returns the key of an interrupted request, or makes and stores one. The key is on
// disk before it is used, so that a certificate that is signed while the agent does not run is not
// lost.
func (p *Pairs) pendingKey() (key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	data, err := readOptional(p.keyPath())
	if err != nil {
		return nil, nil, fmt.Errorf("reading the private key: %w", err)
	}
	if key := parseKey(data); key != nil {
		return key, data, nil
	}
	key, data, err = newKey()
	if err != nil {
		return nil, nil, err
	}
	return key, data, writeFile(p.keyPath(), data, 0o600)
}

func (p *Pairs) hasPendingKey() bool {
	data, err := os.ReadFile(p.keyPath())
	return err == nil && parseKey(data) != nil
}

func (p *Pairs) dropPendingKey() error { return remove(p.keyPath()) }

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a private key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func parseKey(data []byte) *ecdsa.PrivateKey {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	return key
}

// certFacts reads from the pair at path what Plan needs.
func certFacts(path string, cas []*x509.Certificate) (Cert, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		if os.IsNotExist(err) {
			return Cert{}, nil
		}
		return Cert{}, fmt.Errorf("reading the client certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return Cert{}, nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Cert{}, nil //nolint:nilerr // half a file is no certificate: join requests a new one
	}
	_, pairErr := tls.X509KeyPair(data, data)
	c := Cert{
		CommonName: leaf.Subject.CommonName, Organizations: leaf.Subject.Organization,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Paired: pairErr == nil,
	}
	c.Issued = slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil })
	return c, nil
}
