package containerd

import (
	"context"
	"fmt"
	"net"
	"time"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/client"
	"k8s.io/apimachinery/pkg/types"
)

// Facts are what can be asked of a containerd before anything is run by it.
type Facts struct {
	// Version as in "2.3.4".
	Version string
	// Snapshotters are those it has, by name; the value says why one does not work, "" that it does.
	Snapshotters map[string]string
}

// Probe asks the containerd at a socket. It changes nothing.
func Probe(ctx context.Context, address string) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// the client would try for as long as it may; a socket is there or not
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
	return f, nil
}

func whyNot(p *introspectionapi.Plugin) string {
	if p.InitErr == nil {
		return ""
	}
	return p.InitErr.Message
}

// criUID is where containerd's CRI plugin says which pod a container is of.
const criUID = "io.kubernetes.pod.uid"

// Foreign are the pods that containerd's CRI plugin runs: a kubelet's, not ours.
func (r *Runtime) Foreign(ctx context.Context) (map[types.UID]bool, error) {
	records, err := r.store().List(ctx, fmt.Sprintf("labels.%q", criUID))
	if err != nil {
		return nil, fmt.Errorf("listing containers of CRI: %w", native(err))
	}
	found := map[types.UID]bool{}
	for _, record := range records {
		found[types.UID(record.Labels[criUID])] = true
	}
	return found, nil
}
