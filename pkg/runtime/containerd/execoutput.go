package containerd

import (
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// output copies one output pipe of a process to whoever asked for it.
type output struct {
	pipe *os.File
	to   io.Writer
	done chan struct{}
	err  error // of the writer; to be read after done

	dropped atomic.Bool  // nobody wants the output any more
	waiting atomic.Bool  // the copy waits for the pipe, not for the writer
	reads   atomic.Int64 // how many reads have returned
	seen    int64        // reads at the last look of isQuiet
}

func startOutput(pipe *os.File, to io.Writer) *output {
	if to == nil {
		to = io.Discard
	}
	o := &output{pipe: pipe, to: to, done: make(chan struct{}), seen: -1}
	go o.copy()
	return o
}

func (o *output) copy() {
	defer close(o.done)
	buf := make([]byte, 32<<10)
	for {
		o.waiting.Store(true)
		n, err := o.pipe.Read(buf)
		o.waiting.Store(false)
		o.reads.Add(1)
		if n > 0 && !o.dropped.Load() {
			if _, o.err = o.to.Write(buf[:n]); o.err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (o *output) isDone() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// isQuiet says that the pipe has been empty since the last look. A writer that takes its time is no
// silence.
func (o *output) isQuiet() bool {
	if o.isDone() {
		return true
	}
	waiting, reads := o.waiting.Load(), o.reads.Load()
	quiet := waiting && reads == o.seen && o.isEmpty()
	o.seen = reads
	return quiet
}

func (o *output) isEmpty() bool {
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return true
	}
	left := 0
	err = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err != nil || left == 0
}
