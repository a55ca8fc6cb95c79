package bootstrap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// embed writes the certificate that a kubeconfig names into it.
func embed(t *testing.T, kubeconfig string, pairs *Pairs) {
	t.Helper()
	text, err := os.ReadFile(pairs.Path())
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for name := range c.AuthInfos {
		c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: text, ClientKeyData: text}
	}
	if err := clientcmd.WriteToFile(*c, kubeconfig); err != nil {
		t.Fatal(err)
	}
}

func ensure(kubeconfig, certDir string) (*Credentials, []string, error) {
	var told []string
	c, err := Ensure(context.Background(), EnsureConfig{
		Kubeconfig: kubeconfig, BootstrapKubeconfig: "/nowhere", CA: "/ca", CertDir: certDir, NodeName: "n1", Now: time.Now,
		Report: func(e Event) { told = append(told, e.Detail) },
	})
	return c, told, err
}

// TestRenewedElsewhere: a kubeconfig that names another file than the agent's own, or holds its
// certificate, does not get the renewed one. The agent requests a new certificate once, uses it,
// and uses it again after a restart.
func TestRenewedElsewhere(t *testing.T) {
	for name, embedded := range map[string]bool{"another file": false, "embedded": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newAuthority(t, "kubernetes")
				kubeconfig, elsewhere := node(t, ca, 10*time.Hour, "127.0.0.1:1")
				if embedded {
					embed(t, kubeconfig, elsewhere)
				}
				dir := filepath.Join(t.TempDir(), "own", "pki")
				creds, _, err := ensure(kubeconfig, dir)
				if err != nil {
					t.Fatal(err)
				}
				client, calls := signer(t, ca, 0, false)
				r, err := NewRotator(RotatorConfig{
					NodeName: "n1", CertDir: dir, Credentials: creds, Renew: true, Now: time.Now, Jitter: func() float64 { return 0.5 }, Log: quiet(),
				})
				if err != nil {
					t.Fatal(err)
				}
				r.renewer.client = func() (kubernetes.Interface, error) { return client, nil }
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- r.Run(ctx) }()
				time.Sleep(7*time.Hour + 30*time.Minute)
				synctest.Wait()
				renewed, err := NewPairs(dir, clientPair).Current()
				if err != nil {
					t.Fatal(err)
				}
				if calls.Load() != 1 || !sameLeaf(creds.Certificate(), renewed) {
					t.Errorf("half an hour after it was due there were %d requests, and the new one is in use: %v", calls.Load(), sameLeaf(creds.Certificate(), renewed))
				}
				cancel()
				<-done
				synctest.Wait()
				again, _, err := ensure(kubeconfig, dir)
				if err != nil || !sameLeaf(again.Certificate(), renewed) {
					t.Errorf("after a restart: %v, and the new one is not in use", err)
				}
			})
		})
	}
}

// TestAnotherClustersPair: a pair in the agent's folder does not replace the certificate of a
// kubeconfig for another cluster.
func TestAnotherClustersPair(t *testing.T) {
	old, ca := newAuthority(t, "kubernetes"), newAuthority(t, "kubernetes")
	kubeconfig, own := node(t, ca, 2*time.Hour, "127.0.0.1:1")
	dir := filepath.Join(t.TempDir(), "pki")
	save(t, old, NewPairs(dir, clientPair), 10*time.Hour)
	creds, _, err := ensure(kubeconfig, dir)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := own.Current(); err != nil || !sameLeaf(creds.Certificate(), want) {
		t.Errorf("another cluster's is used: %v", err)
	}
	if err := os.WriteFile(own.Path(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ensure(kubeconfig, dir); ExitCode(err) != int(CodeCertificate) {
		t.Errorf("with its own file damaged another cluster's is used: %v", err)
	}
}

// TestDamagedCertificateFile: the error for an empty or incomplete file names it and a remedy; an
// older valid pair beside it is used.
func TestDamagedCertificateFile(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "half": "-----BEGIN CERTIFICATE-----\nMIIB"} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t, "kubernetes")
			kubeconfig, pairs := node(t, ca, 2*time.Hour, "127.0.0.1:1")
			damage := func() string {
				t.Helper()
				file, err := filepath.EvalSymlinks(pairs.Path())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return file
			}
			older, err := pairs.Current()
			if err != nil {
				t.Fatal(err)
			}
			save(t, ca, pairs, 3*time.Hour)
			damage()
			creds, told, err := ensure(kubeconfig, pairs.dir)
			if err != nil || !sameLeaf(creds.Certificate(), older) {
				t.Fatalf("the older one is not used: %v", err)
			}
			if len(told) != 1 || !strings.Contains(told[0], pairs.Path()) {
				t.Errorf("told %q", told)
			}
			if changed, err := creds.Reload(time.Now()); changed || err != nil {
				t.Errorf("the damaged file is read again: %v, %v", changed, err)
			}
			if err := os.Remove(pairs.Path()); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(pairs.dir, "*.pem"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(filepath.Base(files[0]), pairs.Path()); err != nil {
				t.Fatal(err)
			}
			var e *Error
			_, _, err = ensure(kubeconfig, pairs.dir)
			if !errors.As(err, &e) || e.Code != CodeCertificate || !strings.Contains(err.Error(), pairs.Path()) || !strings.Contains(e.Next, "--rejoin") {
				t.Errorf("nothing good is left: %v", err)
			}
		})
	}
}

// TestReplacedFile: of files that another program puts in place, only a valid certificate for the
// same name is used.
func TestReplacedFile(t *testing.T) {
	ca := newAuthority(t, "kubernetes")
	kubeconfig, pairs := node(t, ca, 2*time.Hour, "127.0.0.1:1")
	creds, err := LoadCredentials(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	first := creds.Certificate()
	write := func(name string, life time.Duration) {
		t.Helper()
		key, keyPEM, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(pairs.Path()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(pairs.Path(), append(ca.issue(t, nodeSubject(name), &key.PublicKey, life), keyPEM...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []struct {
		node string
		life time.Duration
	}{{"other", 3 * time.Hour}, {"n1", time.Minute}} { // one hour of the lifetime is over
		write(bad.node, bad.life)
		if changed, err := creds.Reload(time.Now()); changed || err == nil || !strings.Contains(err.Error(), pairs.Path()) || !sameLeaf(creds.Certificate(), first) {
			t.Errorf("a certificate of node %s with a life of %s: %v, %v", bad.node, bad.life, changed, err)
		}
	}
	write("n1", 3*time.Hour)
	if changed, err := creds.Reload(time.Now()); !changed || err != nil {
		t.Errorf("a good one: %v, %v", changed, err)
	}
}

// TestRenamedMachine: the certificate has the old name, for which every request under the new one
// is forbidden.
func TestRenamedMachine(t *testing.T) {
	ca := newAuthority(t, "kubernetes")
	kubeconfig, pairs := node(t, ca, 2*time.Hour, "127.0.0.1:1")
	_, err := Ensure(t.Context(), EnsureConfig{
		Kubeconfig: kubeconfig, BootstrapKubeconfig: "/nowhere", CA: "/ca", CertDir: pairs.dir, NodeName: "renamed", Now: time.Now, Report: func(Event) {},
	})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeCertificate {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`"n1"`, `"renamed"`, "--hostname-override=n1", "nodeagent reset"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestExpiredWhileRunning: a machine was paused past the end of its certificate. With a bootstrap
// kubeconfig the agent gets another one without a restart; without, it logs a remedy. Both hold
// whether it renews certificates or not.
func TestExpiredWhileRunning(t *testing.T) {
	for _, renew := range []bool{true, false} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "kubernetes")
			kubeconfig, pairs := node(t, ca, 2*time.Hour, "127.0.0.1:1")
			creds, err := LoadCredentials(kubeconfig)
			if err != nil {
				t.Fatal(err)
			}
			now, bootstrapFile := time.Now, filepath.Join(dir, "bootstrap.conf")
			r, err := NewRotator(RotatorConfig{
				NodeName: "n1", CertDir: pairs.dir, Credentials: creds, Renew: renew, BootstrapKubeconfig: bootstrapFile,
				Now: func() time.Time { return now() }, Jitter: func() float64 { return 0.5 }, Log: quiet(),
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.renewer.client(); err != nil || r.rejoining {
				t.Errorf("while it is good: %v, rejoining %v", err, r.rejoining)
			}
			if _, _, err := pairs.pendingKey(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour) // paused
			if _, err := r.renewer.client(); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "--rejoin") {
				t.Errorf("without a bootstrap kubeconfig: %v", err)
			}
			token := clientcmdapi.NewConfig()
			token.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1", CertificateAuthorityData: ca.pem()}
			token.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "abcdef.0123456789abcdef"}
			token.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
			token.CurrentContext = "x"
			if err := clientcmd.WriteToFile(*token, bootstrapFile); err != nil {
				t.Fatal(err)
			}
			if _, err := r.renewer.client(); err != nil || !r.rejoining || pairs.hasPendingKey() {
				t.Errorf("with one: %v, rejoining %v, old key left %v", err, r.rejoining, pairs.hasPendingKey())
			}
			if want, _ := r.request(); want.forbidden != "" {
				t.Errorf("what to do when it is forbidden to the bootstrap token: %q", want.forbidden)
			}
			client, calls := signer(t, ca, 0, false)
			through := r.renewer.client
			r.renewer.client = func() (kubernetes.Interface, error) {
				if _, err := through(); err != nil {
					return nil, err
				}
				return client, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			time.Sleep(time.Minute)
			synctest.Wait()
			if calls.Load() != 1 || creds.CheckExpiry(time.Now()) != nil && leafOf(creds.Certificate()).NotAfter.Before(time.Now()) {
				t.Errorf("a minute later: %d requests, %v", calls.Load(), creds.CheckExpiry(time.Now()))
			}
			cancel()
			<-done
			synctest.Wait()
		})
	}
}

// TestForbiddenRemedies: the remedy for a node whose request is forbidden is not that for
// bootstrap tokens.
func TestForbiddenRemedies(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "certificatesigningrequests"}, "x", errors.New("no"))
	joining, renewing := clientRequest("n1"), clientRequest("n1")
	renewing.forbidden = forbiddenToNodes
	for want, r := range map[string]request{"system:bootstrappers": joining, "Node,RBAC": renewing} {
		if err := r.createError(forbidden); !strings.Contains(err.Error(), want) || ExitCode(err) != int(CodeToken) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
