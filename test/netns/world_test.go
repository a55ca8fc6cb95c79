// Package netns tests the services half with the real kernel: every test builds its own small
// network of namespaces and sends real connections through the rules. It needs root and skips
// without it.
package netns

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
)

// dropTime is how long a connection waits before it counts as dropped.
const dropTime = 400 * time.Millisecond

// world is four namespaces: the node, two pods on its bridge, and everything else (the remote pod
// and the client) beyond an uplink.
type world struct {
	f                corev1.IPFamily
	node, p1, p2, up vnetns.NsHandle
}

// in runs f in a namespace and then returns the thread to its own.
func in(ns vnetns.NsHandle, f func() error) error {
	runtime.LockOSThread()
	here, err := vnetns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.Close()
	if err := vnetns.Set(ns); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if vnetns.Set(here) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with its goroutine
	}()
	return f()
}

func newNS(t testing.TB) vnetns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := vnetns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	ns, err := vnetns.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := vnetns.Set(here); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: network namespaces and iptables")
	}
}

func newWorld(t testing.TB, f corev1.IPFamily) *world {
	t.Helper()
	needRoot(t)
	w := &world{f: f, node: newNS(t), p1: newNS(t), p2: newNS(t), up: newNS(t)}
	steps := []func() error{
		func() error { return in(w.node, w.makeNode) },
		func() error { return w.makePod(w.p1, proxiertest.Pod1, "veth1") },
		func() error { return w.makePod(w.p2, proxiertest.Pod2, "veth2") },
		w.makeUplink,
		func() error { return in(w.node, w.routeNode) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("building the world, step %d: %v", i, err)
		}
	}
	w.serve(t, w.p1, proxiertest.Pod1)
	w.serve(t, w.p2, proxiertest.Pod2)
	w.serve(t, w.up, proxiertest.Remote)
	w.waitConnected(t)
	return w
}

// waitConnected waits until every endpoint can be reached directly: the kernel needs up to a second
// before it uses a new link.
func (w *world) waitConnected(t testing.TB) {
	t.Helper()
	for _, p := range []proxiertest.Place{proxiertest.Pod1, proxiertest.Pod2, proxiertest.Remote} {
		for _, from := range []proxiertest.Place{proxiertest.Node, proxiertest.Pod1, proxiertest.Pod2, proxiertest.Client} {
			to := netip.AddrPortFrom(proxiertest.Address(p, w.f), proxiertest.TCPPort)
			err := errors.New("not tried")
			for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); {
				var c net.Conn
				if c, err = w.dial(from, "tcp", to); err == nil {
					c.Close()
				}
			}
			if err != nil {
				t.Fatalf("building the world: %s does not reach %s: %v", from, p, err)
			}
		}
	}
}

func (w *world) v6() bool { return w.f == corev1.IPv6Protocol }

// text selects one text by family.
func (w *world) text(v4, v6 string) string {
	if w.v6() {
		return v6
	}
	return v4
}

func (w *world) gateway() string { return w.text("10.244.1.1/24", "fd00:244:1::1/64") }
func (w *world) uplink() string  { return w.text("192.168.77.1/24", "fd77::1/64") }

func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}

func lo() error {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func address(link netlink.Link, text string) error {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	a.Flags = syscall.IFA_F_NODAD
	return netlink.AddrAdd(link, a)
}

// makeNode relies on /proc/sys being that of the thread's namespace.
func (w *world) makeNode() error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: proxiertest.Bridge}}
	if err := errors.Join(lo(), netlink.LinkAdd(bridge), address(bridge, w.gateway()), netlink.LinkSetUp(bridge)); err != nil {
		return err
	}
	_ = sysctl("net/bridge/bridge-nf-call-iptables", "1")
	_ = sysctl("net/bridge/bridge-nf-call-ip6tables", "1")
	return errors.Join(sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv6/conf/all/forwarding", "1"))
}

// makePod connects a namespace to the bridge, in hairpin mode like the CNI plugin.
func (w *world) makePod(ns vnetns.NsHandle, p proxiertest.Place, host string) error {
	if err := in(w.node, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(proxiertest.Bridge)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, bridge), netlink.LinkSetHairpin(veth, true), netlink.LinkSetUp(veth))
	}); err != nil {
		return err
	}
	return in(ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		own := proxiertest.Address(p, w.f).String() + w.text("/24", "/64")
		if err := errors.Join(lo(), address(link, own), netlink.LinkSetUp(link)); err != nil {
			return err
		}
		return route(link, w.text("0.0.0.0/0", "::/0"), strings.Split(w.gateway(), "/")[0])
	})
}

func route(link netlink.Link, to, via string) error {
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(via)})
}

// makeUplink adds the addresses of the client and the remote pod on the other side.
func (w *world) makeUplink() error {
	if err := in(w.node, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(w.up)})
	}); err != nil {
		return err
	}
	return in(w.up, func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		bits := w.text("/32", "/128")
		if err := errors.Join(lo(), address(link, w.uplink()), netlink.LinkSetUp(link),
			address(loopback, proxiertest.Address(proxiertest.Client, w.f).String()+bits),
			address(loopback, proxiertest.Address(proxiertest.Remote, w.f).String()+bits)); err != nil {
			return err
		}
		node := proxiertest.Address(proxiertest.Node, w.f).String()
		errs := []error{route(link, w.text("10.244.1.0/24", "fd00:244:1::/64"), node)}
		for _, p := range proxiertest.ServiceRanges(w.f) {
			errs = append(errs, route(link, p.String(), node))
		}
		return errors.Join(errs...)
	})
}

func (w *world) routeNode() error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := errors.Join(address(link, proxiertest.Address(proxiertest.Node, w.f).String()+w.text("/24", "/64")), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	return route(link, w.text("0.0.0.0/0", "::/0"), strings.Split(w.uplink(), "/")[0])
}

// serve answers each connection and each datagram with "<own> <caller>".
func (w *world) serve(t testing.TB, ns vnetns.NsHandle, p proxiertest.Place) {
	t.Helper()
	var listener net.Listener
	var packets net.PacketConn
	own := proxiertest.Address(p, w.f)
	err := in(ns, func() (err error) {
		if listener, err = net.Listen("tcp", netip.AddrPortFrom(own, proxiertest.TCPPort).String()); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", netip.AddrPortFrom(own, proxiertest.UDPPort).String())
		return err
	})
	if err != nil {
		t.Fatalf("serving at %s: %v", p, err)
	}
	t.Cleanup(func() { listener.Close(); packets.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	go func() {
		buf := make([]byte, 16)
		for {
			_, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(writerTo{packets, from}, "%s %s\n", packets.LocalAddr(), from)
		}
	}()
}

// answer echoes each line until the caller hangs up.
func answer(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	fmt.Fprintf(c, "%s %s\n", c.LocalAddr(), c.RemoteAddr())
	for lines.Scan() {
		fmt.Fprintf(c, "%s\n", lines.Text())
	}
}

type writerTo struct {
	c  net.PacketConn
	to net.Addr
}

func (w writerTo) Write(p []byte) (int, error) { return w.c.WriteTo(p, w.to) }

func (w *world) at(p proxiertest.Place) (vnetns.NsHandle, netip.Addr) {
	switch p {
	case proxiertest.Pod1:
		return w.p1, netip.Addr{}
	case proxiertest.Pod2:
		return w.p2, netip.Addr{}
	case proxiertest.Node:
		return w.node, netip.Addr{}
	}
	return w.up, proxiertest.Address(p, w.f)
}

// dial opens a connection from a place; its socket stays in that namespace.
func (w *world) dial(from proxiertest.Place, network string, to netip.AddrPort) (net.Conn, error) {
	ns, source := w.at(from)
	d := net.Dialer{Timeout: dropTime}
	if source.IsValid() {
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		}
	}
	var c net.Conn
	err := in(ns, func() (err error) {
		c, err = d.Dial(network, to.String())
		return err
	})
	return c, err
}

// Connect implements proxiertest.World.
func (w *world) Connect(t testing.TB, from proxiertest.Place, protocol corev1.Protocol, to netip.AddrPort) proxiertest.Result {
	t.Helper()
	c, err := w.dial(from, strings.ToLower(string(protocol)), to)
	if err != nil {
		return verdict(t, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(dropTime))
	if protocol == corev1.ProtocolUDP {
		if _, err := c.Write([]byte("?")); err != nil {
			return verdict(t, err)
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return verdict(t, err)
	}
	at, source, _ := strings.Cut(strings.TrimSpace(line), " ")
	return proxiertest.Result{Verdict: proxiertest.Landed, At: netip.MustParseAddrPort(at), Source: netip.MustParseAddrPort(source).Addr().Unmap()}
}

func verdict(t testing.TB, err error) proxiertest.Result {
	t.Helper()
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return proxiertest.Result{Verdict: proxiertest.Rejected}
	case errors.As(err, &timeout) && timeout.Timeout():
		return proxiertest.Result{Verdict: proxiertest.Dropped}
	}
	t.Errorf("connecting: %v", err)
	return proxiertest.Result{}
}
