package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// retryListen is the wait, as in kubelet and kube-proxy, before the next attempt to open a port
// that another program uses.
const retryListen = 5 * time.Second

// Ports opens ports. It tries again while another program, such as a kubelet or kube-proxy that is
// stopping, uses a port, and lists such ports. The zero value is ready for use; a nil one is too,
// and lists nothing.
type Ports struct {
	// Open opens a port; nil: net.ListenConfig.Listen.
	Open func(ctx context.Context, network, address string) (net.Listener, error)

	mu     sync.Mutex
	closed map[string]error
}

// Listen blocks until the port is open, or until ctx ends: then it returns nil. remedy says what to
// do if it cannot be opened.
func (p *Ports) Listen(ctx context.Context, at netip.AddrPort, remedy string, log *slog.Logger) net.Listener {
	open := new(net.ListenConfig).Listen
	if p != nil && p.Open != nil {
		open = p.Open
	}
	said := ""
	for {
		l, err := open(ctx, "tcp", at.String())
		p.note(at.String(), remedy, err)
		if err == nil {
			if said != "" {
				log.Info("Port is open now", "at", at)
			}
			return l
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			log.Error("Port cannot be opened, trying again", "err", err, "retryIn", retryListen, "remedy", remedy)
		}
		if sleep.For(ctx, retryListen) != nil {
			return nil
		}
	}
}

func (p *Ports) note(at, remedy string, err error) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = map[string]error{}
	}
	if delete(p.closed, at); err != nil {
		p.closed[at] = fmt.Errorf("listening on %s: %w; %s", at, err, remedy)
	}
}

// Closed lists the ports that cannot be opened, with the reasons.
func (p *Ports) Closed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, at := range slices.Sorted(maps.Keys(p.closed)) {
		out = append(out, p.closed[at].Error())
	}
	return out
}
