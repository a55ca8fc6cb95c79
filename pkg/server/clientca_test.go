package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestClientCAComesLater: a CA file that is written after the start is used without a restart; one
// that the configuration names must exist.
func TestClientCAComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	now := time.Now()
	clock := func() time.Time { return now }
	if _, err := NewClientCA(path, false, clock); err == nil {
		t.Error("a CA that is named and does not exist is no error")
	}
	c, err := NewClientCA(path, true, clock)
	if err != nil || c.Pool() != nil {
		t.Fatalf("without a file: %v, %v", c.Pool(), err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.Pool() == nil {
		t.Error("the file exists, and no CA is in force")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // it is being written
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if c.Pool() == nil {
		t.Error("the CA is no longer in force")
	}
}

func TestTLSOptions(t *testing.T) {
	for name, want := range map[string]uint16{"": tls.VersionTLS12, "VersionTLS10": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13} {
		version, suites, err := TLSOptions(name, []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"})
		if err != nil || version != want || !slices.Equal(suites, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}) {
			t.Errorf("%q: version %x, suites %v, error %v", name, version, suites, err)
		}
	}
	if _, _, err := TLSOptions("", []string{"none"}); err == nil {
		t.Error("an unknown cipher suite is no error")
	}
}
