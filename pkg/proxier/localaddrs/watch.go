// Package localaddrs is EDGE: it says which address families this network namespace has, lists its
// addresses, and follows them by the kernel's notifications (rtnetlink(7)). It changes nothing.
package localaddrs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// retry is how long Watch pauses after a failure.
const retry = 5 * time.Second

// Supports says why the kernel cannot use a family; nil: it can.
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

// Watch calls changed with what List(except) returns, at once and after each change of an address,
// until ctx ends; it returns nil then. Several changes in a row may lead to one call.
func Watch(ctx context.Context, log *slog.Logger, except string, changed func([]netip.Addr)) error {
	for logged := ""; ctx.Err() == nil; {
		if err := watch(ctx, except, changed); ctx.Err() == nil && err.Error() != logged {
			logged = err.Error()
			log.Warn("Watching this machine's addresses failed", "err", err, "retryIn", retry)
		}
		_ = sleep.For(ctx, retry)
	}
	return nil
}

// watch returns the error that ended it; any, once ctx has ended.
func watch(ctx context.Context, except string, changed func([]netip.Addr)) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return fmt.Errorf("opening a netlink socket for addresses: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	for {
		all, err := List(except) // first of all: what changed before the socket was open
		if err != nil {
			return err
		}
		changed(all)
		if _, err := conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("receiving changes of addresses: %w", err)
		}
	}
}
