// Package ipvs is EDGE: it removes what a kube-proxy in mode ipvs has on the node, through
// netlink: virtual servers, the device kube-ipvs0 and ip sets. IPVS itself translates the packets
// of its connections, so Leave lets virtual servers accept nothing new and removes each when its
// last connection has ended; what can go when is decided by package drain, which is PURE. Cleanup
// removes everything at once. Virtual servers of other programs, whose addresses are not on
// kube-ipvs0, stay.
package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/ipvs/drain"
)

// Device is the interface on which kube-proxy keeps the addresses of Services in mode ipvs.
const Device = "kube-ipvs0"

// Config is what a Leaver is made of.
type Config struct {
	Family corev1.IPFamily
	// Addresses lists the node's own addresses, without those of Device.
	Addresses func() ([]netip.Addr, error)
	// NodeIP is the source address that programs of this node are to use for new connections to
	// Services; the zero value: the kernel chooses.
	NodeIP netip.Addr
	// Exclude are ranges whose virtual servers stay, although they look like kube-proxy's:
	// KubeProxyConfiguration ipvs.excludeCIDRs.
	Exclude []netip.Prefix
	// Guards are removed with the last address; nil: somebody else removes them.
	Guards Guards
	Log    *slog.Logger
}

// Guards is the role of who programs the iptables rules that protect the host's own ports while it
// has addresses of Services.
type Guards interface {
	// RemoveGuards removes them. It works twice.
	RemoveGuards(ctx context.Context) error
}

// Leaver removes what mode ipvs has in one family. It implements proxier.Leaver. Its methods may
// be called from any goroutine.
type Leaver struct {
	c Config

	mu      sync.Mutex
	link    netlink.Link // Device; nil: there is none
	waiting int          // of the last Leave
}

// NewLeaver checks the configuration; it does nothing yet.
func NewLeaver(c Config) (*Leaver, error) {
	if c.Family == "" || c.Addresses == nil || c.Log == nil {
		return nil, errors.New("making the leaver of mode ipvs: Family, Addresses and Log are needed")
	}
	return &Leaver{c: c}, nil
}

// Leave does what can be done without breaking a connection, and says how many connections it
// waits for.
func (l *Leaver) Leave(ctx context.Context) (waiting int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, err := l.find()
	if err != nil || !found {
		return 0, err
	}
	waiting, err = l.drain(ctx)
	if err != nil {
		return 0, fmt.Errorf("removing what kube-proxy's mode ipvs left: %w", err)
	}
	switch {
	case waiting == 0:
		l.c.Log.Info("Removed the virtual servers and addresses of kube-proxy's mode ipvs", "family", l.c.Family)
	case l.waiting == 0:
		l.c.Log.Info("Virtual servers of kube-proxy's mode ipvs stay until their connections have ended; they accept no new ones",
			"family", l.c.Family, "connections", waiting)
	}
	l.waiting = waiting
	return waiting, nil
}

// Found says whether there is anything to remove.
func (l *Leaver) Found() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.find()
}

// Cleanup removes everything at once; connections through IPVS end. It works twice.
func (l *Leaver) Cleanup(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, err := l.find()
	if err != nil || !found {
		return err
	}
	h, err := l.open()
	if err != nil {
		return err
	}
	defer h.close()
	s, err := l.observe(h)
	if err != nil {
		return err
	}
	return errors.Join(l.carryOut(h, drain.New(s.WithoutConnections())), l.finish(ctx))
}

// find says whether anything of the family is there. Both families share the device, which goes
// last.
func (l *Leaver) find() (bool, error) {
	l.link = nil
	link, err := netlink.LinkByName(Device)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return false, fmt.Errorf("looking for %s: %w", Device, err)
	default:
		l.link = link
		all, err := l.addressesOn(unix.AF_UNSPEC)
		if err != nil {
			return false, err
		}
		own, err := l.addressesOn(l.family())
		if err != nil || len(own) > 0 || len(all) == 0 {
			return err == nil, err
		}
	}
	return len(existingSets(l.ipv6())) > 0, nil
}

// drain removes what has no connection, and says how many connections the rest has.
func (l *Leaver) drain(ctx context.Context) (waiting int, err error) {
	h, err := l.open()
	if err != nil {
		return 0, err
	}
	defer h.close()
	s, err := l.observe(h)
	if err != nil {
		return 0, err
	}
	for _, v := range drain.New(s).Quiesce {
		err = errors.Join(err, h.quiesce(v))
	}
	for _, a := range s.Addresses {
		if !s.Excluded(a) {
			err = errors.Join(err, l.setSource(a))
		}
	}
	if err != nil {
		return 0, err
	}
	// connections are counted only now that no new ones can begin
	if s, err = l.observe(h); err != nil {
		return 0, err
	}
	if len(s.Addresses) > 0 {
		if s.Sources, err = l.sources(); err != nil {
			return 0, err
		}
	}
	p := drain.New(s)
	if err := l.carryOut(h, p); err != nil || p.Waiting > 0 {
		return p.Waiting, err
	}
	return 0, l.finish(ctx)
}

// observe reads the state, except the sources of connections.
func (l *Leaver) observe(h *handle) (drain.State, error) {
	s := drain.State{NodePorts: map[drain.Port]bool{}, Local: map[netip.Addr]bool{}, Exclude: l.c.Exclude}
	var err error
	if l.link != nil {
		if s.Addresses, err = l.addressesOn(l.family()); err != nil {
			return s, err
		}
	}
	local, err := l.c.Addresses()
	if err != nil {
		return s, err
	}
	for _, a := range local {
		s.Local[a] = true
	}
	if h == nil {
		return s, nil
	}
	if s.Servers, err = h.servers(); err != nil {
		return s, err
	}
	for _, set := range drain.NodePortSets(l.ipv6()) {
		for p := range portsIn(set, s) {
			s.NodePorts[p] = true
		}
	}
	return s, nil
}

// carryOut removes addresses before servers: a packet that arrives in between is dropped, not
// delivered to the host.
func (l *Leaver) carryOut(h *handle, p drain.Plan) error {
	var all error
	for _, a := range p.Release {
		all = errors.Join(all, l.release(a))
	}
	for _, s := range p.Remove {
		all = errors.Join(all, h.remove(s))
	}
	return all
}

// finish removes what is needed only while there are addresses: the guards, the ip sets, and, with
// the last address of both families, the device.
func (l *Leaver) finish(ctx context.Context) error {
	if l.c.Guards != nil {
		if err := l.c.Guards.RemoveGuards(ctx); err != nil {
			return err
		}
	}
	var all error
	for _, name := range existingSets(l.ipv6()) {
		if err := netlink.IpsetDestroy(name); err != nil {
			all = errors.Join(all, fmt.Errorf("destroying ip set %q (rules that use it: iptables-save | grep %[1]s): %w", name, err))
		}
	}
	if all != nil || l.link == nil {
		return all
	}
	if left, err := l.addressesOn(unix.AF_UNSPEC); err != nil || len(left) > 0 {
		return err // addresses of the other family, or excluded ones
	}
	if err := netlink.LinkDel(l.link); err != nil {
		return fmt.Errorf("deleting %s: %w", Device, err)
	}
	return nil
}
