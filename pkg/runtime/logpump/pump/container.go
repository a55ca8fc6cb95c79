package pump

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// readSize is the default capacity of a pipe.
const readSize = 64 << 10

// container is one container's streams.
//
//	opened ──seal──▶ sealed ──both pipes ended──▶ ended (log complete) ──close──▶ gone
type container struct {
	pump  *Pump
	out   runtime.Output
	ended chan struct{} // closed when all output is in the log
	wg    sync.WaitGroup

	mu      sync.Mutex
	log     logFile
	streams []*stream
	stdin   *os.File // keeps the container's stdin open
	keepers []*os.File
	clients map[*client]struct{}
	linked  bool
	failed  time.Time // when the last write failed
}

// stream is one of the two outputs.
type stream struct {
	c     *container
	kind  wire.Kind
	file  *os.File
	split crilog.Splitter
}

// newContainer opens the pipes. It opens the log in the background and retries with each write: a
// log that cannot be written must not block the container.
func newContainer(p *Pump, out runtime.Output, limits wire.Limits) (_ *container, err error) {
	c := &container{pump: p, out: out, ended: make(chan struct{}), clients: map[*client]struct{}{}}
	defer func() {
		if err != nil {
			c.closeFiles()
		}
	}()
	c.log = logFile{path: out.LogPath, limits: limits, tidy: p.tidy, now: p.now}
	if out.Stdin != "" {
		// Opened for reading and writing: this never blocks, and a client that disconnects does not
		// end the input.
		if c.stdin, err = openFIFO(out.Stdin, os.O_RDWR); err != nil {
			return nil, err
		}
	}
	if err := c.openStream(out.Stdout, wire.FrameStdout, crilog.Stdout); err != nil {
		return nil, err
	}
	if err := c.openStream(out.Stderr, wire.FrameStderr, crilog.Stderr); err != nil {
		return nil, err
	}
	opened := make(chan struct{})
	c.wg.Go(func() { defer close(opened); c.openLog() })
	for _, s := range c.streams {
		c.wg.Go(s.run)
	}
	go func() {
		c.wg.Wait()
		c.end()
	}()
	late := time.NewTimer(openTime)
	defer late.Stop()
	select {
	case <-opened:
	case <-late.C:
	}
	return c, nil
}

// openTime is how long Open waits for the log file; it does not wait for a hung disk.
const openTime = time.Second

// openLog creates the log and its link, so that both exist before the first line.
func (c *container) openLog() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.log.write(nil); err != nil {
		c.report(err)
	}
	c.linkLog()
}

// linkLog creates the link if it does not exist.
func (c *container) linkLog() {
	if c.linked {
		return
	}
	if err := c.link(); err != nil {
		c.report(err)
		return
	}
	c.linked = true
}

func openFIFO(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening pipe: %w", err)
	}
	return f, nil
}

func (c *container) openStream(path string, kind wire.Kind, name crilog.Stream) error {
	if path == "" {
		return nil
	}
	f, err := openFIFO(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	c.streams = append(c.streams, &stream{c: c, kind: kind, file: f, split: crilog.Splitter{Stream: name}})
	if c.out.Sealed {
		return nil
	}
	keeper, err := openFIFO(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	c.keepers = append(c.keepers, keeper)
	return nil
}

// link creates the link that log shippers watch.
func (c *container) link() error {
	if c.out.LinkPath == "" {
		return nil
	}
	if have, err := os.Readlink(c.out.LinkPath); err == nil && have == c.out.LogPath {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.out.LinkPath), 0o755); err != nil {
		return err
	}
	if err := os.Remove(c.out.LinkPath); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(c.out.LogPath, c.out.LinkPath)
}

// seal closes the write ends.
func (c *container) seal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keepers {
		_ = k.Close()
	}
	c.keepers = nil
}

func (c *container) isEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// run reads one pipe to its end. Data stays in the pipe until it is written to the log, so that a
// pump that is killed or waits for a disk loses nothing; at worst the next pump writes the last
// bytes twice. When the pipe is empty, an unfinished line is written as a partial entry.
func (s *stream) run() {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	var out []byte
	for {
		peek, n, err := s.peek(raw)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			// a retry may get a file descriptor; the data stays in the pipe
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if n <= 0 || err != nil {
			s.c.pump.putPipe(peek)
			break
		}
		buf := s.c.pump.buffers.Get().(*[readSize]byte)
		if n, err = io.ReadFull(peek.r, buf[:n]); err == nil {
			now := s.c.pump.now()
			out = s.split.Split(out[:0], buf[:n], now)
			if s.isEmptyAfter(raw, n) {
				out = s.split.Flush(out, now)
			}
			clients := s.c.record(out)
			err = s.consume(raw, n)
			for _, cl := range clients {
				cl.send(s.kind, buf[:n])
			}
		}
		s.c.pump.buffers.Put(buf)
		if err != nil {
			peek.close()
			break
		}
		s.c.pump.putPipe(peek)
		if cap(out) > 4<<10 {
			out = nil // an idle container holds no memory
		}
	}
	if rest := s.split.Flush(nil, s.c.pump.now()); len(rest) > 0 {
		s.c.record(rest)
	}
}

// peek waits for data and copies it into one of the pump's own pipes, so that it can be read
// without being consumed.
func (s *stream) peek(raw syscall.RawConn) (p *peekPipe, n int, err error) {
	waitErr := raw.Read(func(fd uintptr) bool {
		if p == nil {
			if p, err = s.c.pump.getPipe(); err != nil {
				return true
			}
		}
		for {
			var copied int64
			copied, err = unix.Tee(int(fd), int(p.w.Fd()), readSize, unix.SPLICE_F_NONBLOCK)
			n = int(copied)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if errors.Is(err, syscall.EAGAIN) {
			s.c.pump.putPipe(p)
			p, n, err = nil, 0, nil
			return false
		}
		return true
	})
	if waitErr != nil {
		return p, 0, waitErr
	}
	return p, n, err
}

// isEmptyAfter reports whether the pipe holds no more than the n bytes that were peeked.
func (s *stream) isEmptyAfter(raw syscall.RawConn, n int) bool {
	held := 0
	err := raw.Control(func(fd uintptr) { held, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err == nil && held <= n
}

// consume removes from the pipe what has been written to the log.
func (s *stream) consume(raw syscall.RawConn, left int) error {
	buf := s.c.pump.buffers.Get().(*[readSize]byte)
	defer s.c.pump.buffers.Put(buf)
	for left > 0 {
		var n int
		var err error
		if cerr := raw.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), buf[:left]) }); cerr != nil {
			return cerr
		}
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			left -= n
		}
	}
	return nil
}

// record writes entries to the log and returns the present clients. If the disk is full it drops
// the entries: a container must not block on its log.
func (c *container) record(entries []byte) []*client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(entries) > 0 {
		if err := c.log.write(entries); err != nil {
			c.report(err)
		} else {
			c.linkLog()
		}
	}
	if len(c.clients) == 0 {
		return nil
	}
	return slices.Collect(maps.Keys(c.clients))
}

// report logs an error, at most every ten seconds per container.
func (c *container) report(err error) {
	if now := c.pump.now(); now.Sub(c.failed) > 10*time.Second {
		c.failed = now
		fmt.Fprintf(os.Stderr, "writing log of container %.12s: %v\n", c.out.ID, err)
	}
}

// end runs when both pipes have ended.
func (c *container) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeFilesLocked()
	close(c.ended)
	for cl := range c.clients {
		cl.finish(wire.FrameEnd)
	}
	c.clients = map[*client]struct{}{}
}

// close stops reading, whatever the pipes hold, and removes the link.
func (c *container) close() {
	c.seal()
	for _, s := range c.streams {
		_ = s.file.SetReadDeadline(time.Unix(1, 0))
	}
	<-c.ended
	if c.out.LinkPath != "" {
		if have, err := os.Readlink(c.out.LinkPath); err == nil && have == c.out.LogPath {
			_ = os.Remove(c.out.LinkPath)
		}
	}
}

func (c *container) closeFiles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeFilesLocked()
}

func (c *container) closeFilesLocked() {
	for _, s := range c.streams {
		_ = s.file.Close()
	}
	for _, k := range c.keepers {
		_ = k.Close()
	}
	c.keepers = nil
	c.closeStdinLocked()
	c.log.close()
}

func (c *container) closeStdinLocked() {
	if c.stdin != nil {
		_ = c.stdin.Close()
		c.stdin = nil
	}
}

// writeStdin passes a client's input to the container and blocks while the container does not read.
func (c *container) writeStdin(data []byte) error {
	c.mu.Lock()
	stdin := c.stdin
	c.mu.Unlock()
	if stdin == nil {
		return io.ErrClosedPipe
	}
	_, err := stdin.Write(data)
	return err
}

// endStdin handles the end of a client's input.
func (c *container) endStdin() {
	if !c.out.StdinOnce {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeStdinLocked()
}
