package facts

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// NodeIPs are the node's own addresses: those configured, else the one that Addresses finds. Every
// step of every pod asks for them, so the routing table is read again only when the last reading
// is older than MaxAge.
type NodeIPs struct {
	Given  []netip.Addr
	MaxAge time.Duration
	Now    func() time.Time
	Log    *slog.Logger

	mu      sync.Mutex
	last    []netip.Addr
	at      time.Time
	lastErr string // the error that was logged last
}

// List returns them, the primary one first; none when the routing table names none.
func (n *NodeIPs) List() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.last) > 0 && n.Now().Sub(n.at) < n.MaxAge {
		return n.last
	}
	ips, err := Addresses(n.Given)
	if err != nil {
		if n.lastErr != err.Error() {
			n.lastErr = err.Error()
			n.Log.Error("The node's addresses are not known", "err", err)
		}
		// Pods keep the address while its interface is down for a moment.
		return n.last
	}
	n.last, n.at, n.lastErr = ips, n.Now(), ""
	return ips
}

// Primary is the first as text; the loopback address when none is known.
func (n *NodeIPs) Primary() string {
	if ips := n.List(); len(ips) > 0 {
		return ips[0].String()
	}
	return "127.0.0.1"
}
