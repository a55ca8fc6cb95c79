package containerd

import (
	"context"
	"fmt"
	"net"
	"time"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/client"
)

// Facts describes a containerd before anything runs on it.
type Facts struct {
	// Version as in "2.3.4".
	Version string
	// Snapshotters by name; the value is the reason why one does not work, or "".
	Snapshotters map[string]string
	// Foreign lists the pods that containerd's CRI plugin runs, as namespace/name.
	Foreign []string
}

// Probe reads the facts of the containerd at a socket. It changes nothing.
func Probe(ctx context.Context, address string) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// the client would retry until its deadline; a missing socket should fail at once
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return Facts{}, fmt.Errorf("connecting to containerd: %w", err)
	}
	_ = conn.Close()
	c, err := client.New(address, client.WithTimeout(2*time.Second))
	if err != nil {
		return Facts{}, fmt.Errorf("connecting to containerd at %q: %w", address, err)
	}
	defer func() { _ = c.Close() }()
	v, err := c.Version(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("asking containerd at %q for its version: %w", address, native(err))
	}
	plugins, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return Facts{}, fmt.Errorf("asking containerd at %q for its snapshotters: %w", address, native(err))
	}
	f := Facts{Version: v.Version, Snapshotters: map[string]string{}}
	for _, p := range plugins.Plugins {
		f.Snapshotters[p.ID] = whyNot(p)
	}
	f.Foreign, err = foreign(ctx, c)
	return f, err
}

func whyNot(p *introspectionapi.Plugin) string {
	if p.InitErr == nil {
		return ""
	}
	return p.InitErr.Message
}
