package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// caBundle reads a CA file again when it has changed, so that a new CA is in force without a
// restart.
type caBundle struct {
	path     string
	optional bool // while there is no such file there is no CA
	now      func() time.Time

	mu      sync.Mutex
	current *x509.CertPool
	changed time.Time
	checked time.Time
}

// pool is the newest bundle that could be read; nil without a file.
func (b *caBundle) pool() *x509.CertPool {
	p, err := b.read()
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.current // a file that is being written keeps the old one in force
	}
	return p
}

func (b *caBundle) read() (*x509.CertPool, error) {
	if b.path == "" {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current != nil && b.now().Sub(b.checked) < time.Second {
		return b.current, nil
	}
	b.checked = b.now()
	info, err := os.Stat(b.path)
	if b.optional && errors.Is(err, fs.ErrNotExist) {
		return b.current, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile: %w", err)
	}
	if b.current != nil && info.ModTime().Equal(b.changed) {
		return b.current, nil
	}
	pem, err := os.ReadFile(b.path)
	if err != nil {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile %q: it has no certificate", b.path)
	}
	b.current, b.changed = p, info.ModTime()
	return p, nil
}

// tlsVersion reads tlsMinVersion; anything but 1.3 is 1.2, the least there is here.
func tlsVersion(name string) uint16 {
	if name == "VersionTLS13" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}
