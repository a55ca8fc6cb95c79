package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	cliflag "k8s.io/component-base/cli/flag"
)

// ClientCA is a file of CAs of client certificates. It is read again when it has changed, so that
// a new CA is used without a restart.
type ClientCA struct {
	path     string
	optional bool
	now      func() time.Time

	mu      sync.Mutex
	current *x509.CertPool
	changed time.Time
	checked time.Time
}

// NewClientCA reads the file at path. An optional file may be missing and appear later.
func NewClientCA(path string, optional bool, now func() time.Time) (*ClientCA, error) {
	c := &ClientCA{path: path, optional: optional, now: now}
	_, err := c.read()
	return c, err
}

// Pool returns the newest CAs that could be read; nil while there is no file.
func (c *ClientCA) Pool() *x509.CertPool {
	p, err := c.read()
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.current // while the file is being written, the old CAs are used
	}
	return p
}

func (c *ClientCA) read() (*x509.CertPool, error) {
	if c.path == "" {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.now().Sub(c.checked) < time.Second {
		return c.current, nil
	}
	c.checked = c.now()
	info, err := os.Stat(c.path)
	if c.optional && errors.Is(err, fs.ErrNotExist) {
		return c.current, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile: %w", err)
	}
	if c.current != nil && info.ModTime().Equal(c.changed) {
		return c.current, nil
	}
	pem, err := os.ReadFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading authentication.x509.clientCAFile %q: it has no certificate", c.path)
	}
	c.current, c.changed = p, info.ModTime()
	return p, nil
}

// TLSOptions reads tlsMinVersion and tlsCipherSuites. Every version except 1.3 means 1.2, the
// oldest that the node API speaks.
func TLSOptions(minVersion string, cipherSuites []string) (version uint16, suites []uint16, err error) {
	version = tls.VersionTLS12
	if minVersion == "VersionTLS13" {
		version = tls.VersionTLS13
	}
	suites, err = cliflag.TLSCipherSuites(cipherSuites)
	if err != nil {
		return 0, nil, fmt.Errorf("reading tlsCipherSuites: %w", err)
	}
	return version, suites, nil
}
