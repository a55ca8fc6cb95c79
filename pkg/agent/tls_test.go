package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestClientCAComesLater: the cluster's CA that the first bootstrap writes, or anybody else, is in
// force without a restart; one that the configuration names must be there.
func TestClientCAComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	now := time.Now()
	clock := func() time.Time { return now }
	if _, err := (&caBundle{path: path, now: clock}).read(); err == nil {
		t.Error("a CA that is named and not there is no error")
	}
	b := &caBundle{path: path, optional: true, now: clock}
	if pool, err := b.read(); pool != nil || err != nil {
		t.Fatalf("without a file: %v, %v", pool, err)
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
	if b.pool() == nil {
		t.Error("the file is there, and no CA is in force")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // it is being written
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if b.pool() == nil {
		t.Error("the CA is not in force any more")
	}
}
