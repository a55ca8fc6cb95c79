package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Pull fetches and unpacks an image. It tries the credentials in order, then none, as long as the
// registry refuses them. hosts.toml files in CertsDir configure mirrors, certificates and plain
// HTTP; localhost is always plain HTTP.
func (r *Runtime) Pull(ctx context.Context, ref string, auth []runtime.Credentials) (runtime.Image, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("image reference %q: %w", ref, err)
	}
	unlock, err := r.locks.lock(ctx, "pull/"+named.String())
	if err != nil {
		return runtime.Image{}, err
	}
	defer unlock()
	var errs []error
	for _, c := range append(auth[:len(auth):len(auth)], runtime.Credentials{}) {
		err = r.pull(ctx, named, c)
		if err == nil {
			r.images.stale()
			return r.Image(ctx, named.String())
		}
		errs = append(errs, err)
		if !refused(err) {
			break
		}
	}
	return runtime.Image{}, fmt.Errorf("pulling image %q: %w", ref, errors.Join(errs...))
}

// unpackLocks make concurrent pulls unpack a shared layer only once. The zero value is ready.
type unpackLocks struct {
	locks   keyLocks
	unlocks sync.Map // by key: the holder's unlock function
}

// Lock waits for the key or until ctx ends.
func (u *unpackLocks) Lock(ctx context.Context, key string) error {
	unlock, err := u.locks.lock(ctx, key)
	if err == nil {
		u.unlocks.Store(key, unlock)
	}
	return err
}

// Unlock releases a key that the caller holds.
func (u *unpackLocks) Unlock(key string) {
	if unlock, held := u.unlocks.LoadAndDelete(key); held {
		unlock.(func())()
	}
}

func (r *Runtime) pull(ctx context.Context, named reference.Named, c runtime.Credentials) error {
	ctx, watch, stop := watchProgress(ctx, r.c.PullProgressDeadline)
	defer stop()
	options := dockerconfig.HostOptions{
		HostDir:     dockerconfig.HostDirFromRoot(r.c.CertsDir),
		Credentials: func(host string) (string, string, error) { return credentialsFor(host, named, c) },
		UpdateClient: func(c *http.Client) error {
			c.Transport = watchedTransport{c.Transport, watch}
			return nil
		},
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: dockerconfig.ConfigureHosts(ctx, options)})
	_, err := r.client.Pull(ctx, named.String(),
		client.WithResolver(resolver), client.WithPullUnpack, client.WithPullSnapshotter(r.c.Snapshotter),
		client.WithMaxConcurrentDownloads(3),
		client.WithUnpackOpts([]client.UnpackOpt{client.WithUnpackDuplicationSuppressor(&r.unpacks)}))
	var stalled *stalledError
	if err != nil && errors.As(context.Cause(ctx), &stalled) {
		return stalled
	}
	return err
}

// credentialsFor returns the credentials only if they are for this registry; a mirror under another
// name never gets them.
func credentialsFor(host string, named reference.Named, c runtime.Credentials) (user, secret string, err error) {
	server := c.Server
	if server == "" {
		server = reference.Domain(named)
	}
	if canonicalHost(host) != canonicalHost(server) {
		return "", "", nil
	}
	if c.IdentityToken != "" {
		return "", c.IdentityToken, nil
	}
	return c.Username, c.Password, nil
}

// canonicalHost accepts "registry:5000", "https://registry:5000/v1/" and every name of a registry.
func canonicalHost(s string) string {
	if strings.Contains(s, "://") {
		if u, err := url.Parse(s); err == nil {
			s = u.Host
		}
	}
	s, _, _ = strings.Cut(s, "/")
	return runtime.RegistryHost(s)
}

// refused reports whether the registry rejected the credentials.
func refused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden
	}
	return errors.Is(err, docker.ErrInvalidAuthorization) || strings.Contains(err.Error(), "insufficient_scope")
}
