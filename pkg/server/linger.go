package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lingerTime is how long a client of ended streams may neither send nor receive anything before
// its connection is closed.
const lingerTime = time.Minute

// lingering is a ResponseWriter whose connection, once it is upgraded, stays open until the client
// closes it. The streaming library closes a connection as soon as the last byte is handed to the
// kernel. When the client then sends anything (it pings every few seconds), the kernel answers
// with a reset, and the contents of both kernels' buffers are lost: megabytes, for a client that
// reads slowly, and with exit code 0. The same happens at the API server, which closes its side
// with ours.
type lingering struct {
	http.ResponseWriter
	conn *lingeringConn // nil until the upgrade
}

// Hijack implements http.Hijacker.
func (l *lingering) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(l.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // the caller says what failed
	}
	l.conn = &lingeringConn{Conn: conn}
	return l.conn, buf, nil
}

// finish returns when the connection is closed. Without served, no streams ran on it, and there is
// nothing to wait for.
func (l *lingering) finish(ctx context.Context, served bool, now func() time.Time) {
	if l.conn == nil {
		return
	}
	raw := l.conn.Conn
	defer func() { _ = raw.Close() }()
	if !served {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	buf := make([]byte, 4<<10)
	for left := unsent(raw); ; {
		if raw.SetReadDeadline(now().Add(lingerTime)) != nil {
			return
		}
		_, err := raw.Read(buf)
		still := unsent(raw)
		if err != nil && (!isTimeout(err) || still == 0 || still == left) {
			return
		}
		left = still
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// lingeringConn leaves closing to lingering.finish.
type lingeringConn struct{ net.Conn }

// Close implements net.Conn.
func (*lingeringConn) Close() error { return nil }

// unsent is the number of bytes that the client's kernel has not acknowledged yet.
func unsent(conn net.Conn) int {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }) != nil {
		return 0
	}
	return n
}
