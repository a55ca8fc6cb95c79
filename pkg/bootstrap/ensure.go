package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// EnsureConfig says what Ensure is to make sure of.
type EnsureConfig struct {
	// Kubeconfig is the agent's; BootstrapKubeconfig makes it, when it is missing or its certificate has expired.
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

// Ensure is what the daemon does before all else, as kubelet does: it loads its credentials, and gets them with the
// bootstrap kubeconfig if need be. The bootstrap kubeconfig is left alone: it is not the daemon's. Without one, a missing
// identity or an expired certificate (ErrExpired) is one clear error; running pods are not touched by it.
func Ensure(ctx context.Context, c EnsureConfig) (*Credentials, error) {
	creds, err := LoadCredentials(c.Kubeconfig)
	if err == nil {
		if err = creds.CheckExpiry(c.Now()); err == nil {
			return creds, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, statErr := os.Stat(c.BootstrapKubeconfig); statErr != nil {
		if errors.Is(err, ErrExpired) {
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
