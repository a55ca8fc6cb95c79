package server

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/osthread"
)

// dialIn connects to a port on the loopback of the network namespace at path. The socket belongs to
// the namespace in which it is made, so only the dial runs inside.
func dialIn(ctx context.Context, path string, port int32) (net.Conn, error) {
	if path == "" {
		return dialLoopback(ctx, port)
	}
	var conn net.Conn
	var err error
	osthread.Run(func() (restored bool) {
		back, eerr := enter(path)
		if eerr != nil {
			err = eerr
			return true
		}
		conn, err = dialLoopback(ctx, port)
		restored = unix.Setns(back, unix.CLONE_NEWNET) == nil
		_ = unix.Close(back)
		return restored
	})
	return conn, err
}

// enter moves this thread into the namespace at path and returns a descriptor of the previous one.
func enter(path string) (back int, err error) {
	back, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the agent's network namespace: %w", err)
	}
	in, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(back)
		return -1, fmt.Errorf("opening the network namespace %q: %w", path, err)
	}
	defer func() { _ = unix.Close(in) }()
	if err := unix.Setns(in, unix.CLONE_NEWNET); err != nil {
		_ = unix.Close(back)
		return -1, fmt.Errorf("entering the network namespace %q: %w", path, err)
	}
	return back, nil
}

// dialLoopback tries IPv4, then IPv6. It stays on this thread, since numeric addresses need no
// resolver and one address needs no race.
func dialLoopback(ctx context.Context, port int32) (net.Conn, error) {
	var d net.Dialer
	four, err4 := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err4 == nil {
		return four, nil
	}
	six, err6 := d.DialContext(ctx, "tcp6", fmt.Sprintf("[::1]:%d", port))
	if err6 == nil {
		return six, nil
	}
	return nil, fmt.Errorf("connecting to port %d of the pod: %w", port, errors.Join(err4, err6))
}
