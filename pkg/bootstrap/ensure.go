package bootstrap

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// EnsureConfig says what Ensure is to make sure of.
type EnsureConfig struct {
	// Kubeconfig is the agent's; BootstrapKubeconfig makes it, when it is missing or its
	// certificate has expired.
	Kubeconfig, BootstrapKubeconfig string
	// CA and CertDir are written then; NodeName is the certificate's.
	CA, CertDir, NodeName string
	UserAgent             string
	Minor                 int
	// ApproveFor bounds the wait for a certificate; 0: for as long as ctx.
	ApproveFor time.Duration
	Now        func() time.Time
	Report     func(Event)
}

// Ensure is what the daemon does before all else, as kubelet does: it loads its credentials, and
// gets them with the bootstrap kubeconfig if need be. The bootstrap kubeconfig is left alone: it is
// not the daemon's. Without one, a missing identity, or a certificate that has expired, cannot be
// read or is another node's, is one clear error; running pods are not touched by it.
//
// The certificate is the kubeconfig's, unless the agent has got a newer one since: a kubeconfig
// that holds its certificate, or names another file than the agent's own, does not follow when that
// is renewed.
func Ensure(ctx context.Context, c EnsureConfig) (*Credentials, error) {
	creds, err := loadNewest(c)
	if err == nil {
		return creds, nil
	}
	if unusable := (*Error)(nil); !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &unusable) {
		return nil, err
	}
	if _, statErr := os.Stat(c.BootstrapKubeconfig); statErr != nil {
		if unusable := (*Error)(nil); errors.As(err, &unusable) {
			return nil, err
		}
		return nil, &Error{
			Code: CodeCertificate, Err: fmt.Errorf("loading this node's identity: %w (and no %s)", err, c.BootstrapKubeconfig),
			Next: "nodeagent join SERVER --token …",
		}
	}
	if c.ApproveFor == 0 {
		c.ApproveFor = 365 * 24 * time.Hour // the unit's start timeout is shorter
	}
	j, err := NewJoiner(JoinConfig{
		Plan: Config{
			NodeName: c.NodeName, Discovery: c.BootstrapKubeconfig, NoHostChecks: true, Unpinned: true,
			Files: Files{CA: c.CA, Kubeconfig: c.Kubeconfig},
		},
		Replace:   true, // kubelet takes its Node over too: the name is this machine's
		UserAgent: c.UserAgent, Minor: c.Minor, ApproveFor: c.ApproveFor, Now: c.Now, Report: c.Report,
	}, c.CertDir)
	if err != nil {
		return nil, err
	}
	if _, err := j.Run(ctx); err != nil {
		return nil, err
	}
	return LoadCredentials(c.Kubeconfig)
}

// loadNewest loads the kubeconfig with the newest certificate that there is. Its errors are of type
// *Error for a certificate that is there and cannot be used.
func loadNewest(c EnsureConfig) (*Credentials, error) {
	creds, certErr, err := readCredentials(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	own := leafOf(creds.cert.Load())
	if own != nil || certErr != nil { // else it has a token
		if pair := NewPairs(c.CertDir, clientPair).Best(func(leaf *x509.Certificate) bool { return creds.replaces(leaf, own, c) }); pair != nil {
			creds.cert.Store(pair)
			if certErr != nil {
				c.Report(Event{Phase: PhaseCertificate, State: Done, Detail: fmt.Sprintf("%v; the good one in %s is used", certErr, c.CertDir)})
				certErr = nil
			}
		}
	}
	if certErr != nil {
		return nil, &Error{Code: CodeCertificate, Err: certErr, Next: "put the file back from a backup; or " + rejoin}
	}
	if err := creds.CheckName(c.NodeName); err != nil {
		return nil, err
	}
	if err := creds.CheckExpiry(c.Now()); err != nil {
		return nil, err
	}
	return creds, nil
}

// replaces says that a certificate in the agent's own folder is to be used instead of the
// kubeconfig's (nil: it cannot be read): it is this node's, by the same authority, good now, and
// was made later.
func (c *Credentials) replaces(leaf, own *x509.Certificate, e EnsureConfig) bool {
	if own != nil {
		return leaf.Subject.CommonName == own.Subject.CommonName && leaf.NotBefore.After(own.NotBefore) && e.Now().Before(leaf.NotAfter) &&
			bytes.Equal(leaf.RawIssuer, own.RawIssuer) && bytes.Equal(leaf.AuthorityKeyId, own.AuthorityKeyId)
	}
	if leaf.Subject.CommonName != nodeUser(e.NodeName) || c.tls.RootCAs == nil {
		return false
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.tls.RootCAs, CurrentTime: e.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}
