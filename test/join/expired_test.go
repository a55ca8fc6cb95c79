package join_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestExpiredCertificate: a machine was off for longer than its certificate is valid. The daemon
// notices before its first request, says so and exits; a join, or a bootstrap kubeconfig, gives it
// a new identity.
func TestExpiredCertificate(t *testing.T) {
	m := newMachine(t)
	ctx := t.Context()
	if _, code := m.run("", m.good()...); code != 0 {
		t.Fatalf("joining: exit %d", code)
	}
	const pair = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	run := []string{"run", "--config", "/etc/nodeagent", "--node-ip", m.node.IP.String()}
	expire := func() {
		t.Helper()
		file := m.node.Path(pair)
		have, err := tls.LoadX509KeyPair(file, file)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(have.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		ca, key := loadCA(m)
		leaf.SerialNumber, leaf.NotBefore, leaf.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, leaf.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if strings.HasSuffix(block.Type, "PRIVATE KEY") {
				out = append(out, pem.EncodeToMemory(block)...)
			}
		}
		if err := os.WriteFile(file, out, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expire()
	out, code := m.exec("", run...)
	if code != 15 || !strings.Contains(out, "has expired") || !strings.Contains(out, "--rejoin") {
		t.Errorf("the daemon: exit %d", code)
	}
	if out, code := m.run("", append(m.good(), "--dry-run")...); code != 0 || !strings.Contains(out, "expired on") {
		t.Errorf("a dry run does not say why: exit %d", code)
	}
	if _, code := m.run("", m.good()...); code != 0 {
		t.Errorf("joining again: exit %d", code)
	}
	expire()
	if err := m.node.WriteFile("/etc/kubernetes/bootstrap-kubelet.conf", []byte(m.c.BootstrapKubeconfig()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.node.Start(bed.Spec{Name: "nodeagent", Path: m.program, Args: append(run, "--proxier=off")}); err != nil {
		t.Fatal(err)
	}
	if err := m.node.WaitReady(ctx, 3*time.Minute); err != nil {
		t.Errorf("with a bootstrap kubeconfig: %v", err)
	}
}
