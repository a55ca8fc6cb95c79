package agent

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/pkg/node/facts"
)

// addresses are the node's own: those configured, else what the routing table says. They are asked
// for at every step of every pod, so the table is read again only once the last reading is older
// than the node's status would be.
type addresses struct {
	given []netip.Addr
	every time.Duration
	now   func() time.Time
	log   *slog.Logger

	mu   sync.Mutex
	last []netip.Addr
	at   time.Time
	said string // the last error that the log has
}

// get returns them, the primary one first; none when the routing table names none.
func (a *addresses) get() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.last) > 0 && a.now().Sub(a.at) < a.every {
		return a.last
	}
	ips, err := facts.Addresses(a.given)
	if err != nil {
		if a.said != err.Error() {
			a.said = err.Error()
			a.log.Error("The node's addresses are not known", "err", err)
		}
		// an interface that is down for a moment does not take the address from pods that run
		return a.last
	}
	a.last, a.at, a.said = ips, a.now(), ""
	return ips
}

// primary is the first as text; the loopback address when none is known.
func (a *addresses) primary() string {
	if ips := a.get(); len(ips) > 0 {
		return ips[0].String()
	}
	return "127.0.0.1"
}
