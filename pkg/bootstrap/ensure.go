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

// EnsureConfig says which identity Ensure loads or gets.
type EnsureConfig struct {
	// Kubeconfig is the agent's. BootstrapKubeconfig is used to make it if it is missing or its
	// certificate has expired.
	Kubeconfig, BootstrapKubeconfig string
	// CA and CertDir are written then. NodeName is the name in the certificate.
	CA, CertDir, NodeName string
	UserAgent             string
	Minor                 int
	// ApproveFor bounds the wait for a certificate; 0: only ctx does.
	ApproveFor time.Duration
	Now        func() time.Time
	Report     func(Event)
}

// Ensure loads the daemon's credentials or, as kubelet does, gets them with the bootstrap
// kubeconfig. It keeps the bootstrap kubeconfig, which is not the daemon's. Without one, it
// returns an error with a remedy if the identity is missing, or its certificate has expired,
// cannot be read or is another node's. Running pods go on.
//
// The certificate is the kubeconfig's, unless the agent has obtained a newer one since: the agent
// does not update a kubeconfig that holds its certificate or names another file than the agent's
// own.
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
		Replace:   true, // as kubelet: the Node of this name is this machine's
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

// loadNewest loads the kubeconfig with the newest usable certificate. It returns an *Error for a
// certificate that exists and cannot be used.
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
				c.Report(Event{Phase: PhaseCertificate, State: Done, Detail: fmt.Sprintf("%v; using a valid one in %s", certErr, c.CertDir)})
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

// replaces reports whether a certificate in the agent's own folder replaces the kubeconfig's (nil:
// unreadable): it must be this node's, signed by the same CA, valid now, and newer.
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
