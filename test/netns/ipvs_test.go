package netns

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/ipvs"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
)

// TestAddressesOfIPVS: what a kube-proxy in mode ipvs leaves besides its virtual servers (the
// kernel here need not know those; test/e2e has them): an address is removed as soon as no
// connection uses it as its source, and new ones use the node's own.
func TestAddressesOfIPVS(t *testing.T) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(f), func(t *testing.T) {
			w := newWorld(t, f)
			s := everything(t, f)
			vip := netip.AddrPortFrom(extremeVIP(f), 80)
			prefix, bits := w.text("KUBE-", "KUBE-6-"), w.text("/32", "/128")
			run(t, w.node, "sh", "-c", strings.NewReplacer("PREFIX", prefix, "ADDRESS", vip.Addr().String(), "FAMILY", w.text("inet", "inet6"), "VIP", vip.Addr().String()+bits,
				"NODAD", w.text("", "nodad"), "OTHER", w.text("10.96.9.9", "fd00:96::99")+bits).Replace(`set -e
ip link add kube-ipvs0 type bridge # a dummy would do, where there is one
ip addr add VIP dev kube-ipvs0 NODAD
ip addr add OTHER dev kube-ipvs0 NODAD
ipset create PREFIXNODE-PORT-TCP bitmap:port range 0-65535
ipset create PREFIXCLUSTER-IP hash:ip,port family FAMILY
ipset create PREFIXIPVS-IPS hash:ip family FAMILY
ipset add PREFIXIPVS-IPS ADDRESS
ipset create MINE hash:ip family FAMILY`))
			program := w.text("iptables", "ip6tables")
			run(t, w.node, "sh", "-c", strings.ReplaceAll(strings.ReplaceAll(`set -e
PROGRAM -N KUBE-IPVS-FILTER
PROGRAM -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set PREFIXIPVS-IPS dst -j REJECT
PROGRAM -I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
PROGRAM -N KUBE-NODE-PORT
PROGRAM -I INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT`, "PROGRAM", program), "PREFIX", prefix))

			// Like a program of the node that connected to the Service under kube-proxy: its source
			// address is the Service's.
			var old net.Conn
			if err := in(w.node, func() (err error) {
				d := net.Dialer{Timeout: 30 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(vip.Addr(), 0))}
				old, err = d.Dial("tcp", netip.AddrPortFrom(proxiertest.Address(proxiertest.Node, f), w.listenOnNode(t)).String())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			b := newBackend(t, w.node, f, nil)
			proxiertest.Sync(t, b, s)
			cleaner, err := newLeaver(w.f, b)
			if err != nil {
				t.Fatal(err)
			}
			pass := func() {
				t.Helper()
				if err := in(w.node, func() error { _, err := cleaner.Leave(t.Context()); return err }); err != nil {
					t.Fatal(err)
				}
			}
			pass()
			if got := addressesOf(t, w, "kube-ipvs0"); !slices.Equal(got, []string{vip.Addr().String()}) {
				t.Errorf("kube-ipvs0 has %v, want the one address that a connection starts at", got)
			}
			if got := run(t, w.node, program, "-S", "INPUT"); !strings.Contains(got, "KUBE-IPVS-FILTER") || strings.Contains(got, "KUBE-NODE-PORT ") {
				t.Errorf("rules while an address is there:\n%s", got)
			}
			if got := run(t, w.node, "ip", "route", "get", vip.Addr().String()); !strings.Contains(got, "src "+proxiertest.Address(proxiertest.Node, f).String()+" ") {
				t.Errorf("new connections to the Service start elsewhere: %s", got)
			}
			for _, from := range []proxiertest.Place{proxiertest.Client, proxiertest.Node} {
				// Linux handles the ICMPv6 error a second late
				if r := w.Connect(t, from, corev1.ProtocolTCP, netip.AddrPortFrom(vip.Addr(), 9999)); r.Verdict == proxiertest.Landed || !w.v6() && r.Verdict != proxiertest.Rejected {
					t.Errorf("a connection from %s to a port of the host at the Service's address: %v", from, r)
				}
			}
			_ = old.(*net.TCPConn).SetLinger(0)
			old.Close()
			run(t, w.node, "conntrack", "-D", "-f", w.text("ipv4", "ipv6"), "-s", vip.Addr().String())
			again, err := newLeaver(w.f, b)
			if err != nil {
				t.Fatal(err)
			}
			cleaner = again // an agent that was started meanwhile
			pass()
			if err := in(w.node, func() error { _, err := netlink.LinkByName("kube-ipvs0"); return err }); !errors.As(err, &netlink.LinkNotFoundError{}) {
				t.Errorf("kube-ipvs0 is there: %v", err)
			}
			if got := run(t, w.node, "ipset", "list", "-n"); got != "MINE\n" {
				t.Errorf("ip sets: %q", got)
			}
			if got := run(t, w.node, program+"-save"); strings.Contains(got, "KUBE-IPVS-") || strings.Contains(got, "KUBE-NODE-PORT ") {
				t.Errorf("rules of mode ipvs are left:\n%s", got)
			}
			if got := run(t, w.node, "ip", "route", "show", "table", "local"); strings.Contains(got, vip.Addr().String()) {
				t.Errorf("a route is left:\n%s", got)
			}
			if drift, err := b.Check(t.Context()); err != nil || drift != nil {
				t.Errorf("our rules suffered: %v, %v", drift, err)
			}
		})
	}
}

// TestCleanupOfIPVSIsAtOnce, whatever connections exist.
func TestCleanupOfIPVSIsAtOnce(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	run(t, ns, "sh", "-c", "ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.1/32 dev kube-ipvs0; ip addr add 10.1.0.1/32 dev kube-ipvs0; ipset create KUBE-IPVS-IPS hash:ip; iptables -N KUBE-IPVS-FILTER")
	b := newBackend(t, ns, corev1.IPv4Protocol, nil)
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	clean := func(exclude ...netip.Prefix) (found bool) {
		t.Helper()
		c, err := ipvs.NewLeaver(ipvs.Config{Family: corev1.IPv4Protocol, Exclude: exclude, Addresses: addressesHere, Log: quiet()})
		if err == nil {
			err = in(ns, func() (err error) {
				if found, err = c.Found(); err == nil {
					err = c.Cleanup(t.Context())
				}
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if !clean(netip.MustParsePrefix("10.1.0.0/16")) {
		t.Error("it finds nothing")
	}
	if got := run(t, ns, "ip", "-br", "addr", "show", "kube-ipvs0"); strings.Contains(got, "10.96.0.1") || !strings.Contains(got, "10.1.0.1") {
		t.Errorf("with one address excluded: %s", got)
	}
	clean()
	if clean() {
		t.Error("it finds something where nothing is")
	}
	if got := run(t, ns, "sh", "-c", "ip -br link; ipset list -n; iptables-save"); strings.Contains(got, "kube-ipvs0") || strings.Contains(got, "KUBE-IPVS") {
		t.Errorf("left:\n%s", got)
	}
}

func extremeVIP(f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr("fd00:96::7777")
	}
	return netip.MustParseAddr("10.96.7.7")
}

// listenOnNode accepts connections and does nothing with them.
func (w *world) listenOnNode(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(proxiertest.Address(proxiertest.Node, w.f), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			time.AfterFunc(time.Minute, func() { c.Close() })
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func addressesOf(t *testing.T, w *world, device string) (out []string) {
	t.Helper()
	err := in(w.node, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() {
				out = append(out, a.IP.String())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var _ ipvs.Guards = (*iptables.Backend)(nil)

func addressesHere() ([]netip.Addr, error) { return localaddrs.List(ipvs.Device) }

func newLeaver(f corev1.IPFamily, guards ipvs.Guards) (*ipvs.Leaver, error) {
	return ipvs.NewLeaver(ipvs.Config{
		Family: f, Addresses: addressesHere, Guards: guards, NodeIP: proxiertest.Address(proxiertest.Node, f), Log: quiet(),
	})
}
