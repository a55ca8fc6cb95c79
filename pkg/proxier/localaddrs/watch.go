// Package localaddrs is EDGE: it says which address families this network
// namespace has, lists its addresses, and tells when they change, by the
// kernel's own notices (rtnetlink(7)). It changes nothing.
package localaddrs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// pause is how long after a failure it is tried again.
const pause = 5 * time.Second

// Supports says why the kernel does no business in a family; nil: it does.
func Supports(f corev1.IPFamily) error {
	if f != corev1.IPv6Protocol {
		return nil
	}
	const off = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	value, err := os.ReadFile(off)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the kernel has no IPv6 (it was started with ipv6.disable=1, or is built without)")
	case err != nil:
		return fmt.Errorf("asking whether the kernel has IPv6: %w", err)
	case strings.TrimSpace(string(value)) == "1":
		return errors.New("IPv6 is switched off on this machine (sysctl net.ipv6.conf.all.disable_ipv6=0 switches it on)")
	}
	return nil
}

// List returns every address of every interface, each without its zone.
func List() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	out := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// Watch calls changed after an address has come or gone, and whenever that may have been missed,
// until ctx ends; it returns nil then. Many changes may be told as one.
func Watch(ctx context.Context, log *slog.Logger, changed func()) error {
	for said := ""; ctx.Err() == nil; {
		if err := watch(ctx, changed); ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			log.Warn("Changes of this machine's addresses are not heard of at once", "err", err, "retryIn", pause)
		}
		_ = sleep.For(ctx, pause)
	}
	return nil
}

// watch returns an error: that of the socket, or its end with ctx.
func watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return fmt.Errorf("opening a netlink socket for addresses: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	for {
		changed() // the first time for what changed before
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("receiving changes of addresses: %w", err)
		}
	}
}
