package logpump

import (
	"errors"
	"io"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
)

// printer formats entries as `kubectl logs` shows them.
type printer struct {
	o              runtime.LogOptions
	stdout, stderr io.Writer
	left           int64 // bytes that may still be printed, if limited

	pending []byte
	to      io.Writer
	midLine map[crilog.Stream]bool
	early   map[crilog.Stream]bool // the current line began before Since
}

// maxPending is how much output to buffer before writing it.
const maxPending = 32 << 10

// entry prints one line of the file if it is wanted. It skips lines that are not entries (as after
// a full disk).
func (p *printer) entry(line []byte, wanted func(crilog.Stream) bool) error {
	e, err := crilog.Parse(line)
	if errors.Is(err, crilog.ErrFormat) {
		return nil
	}
	begins := p.begins(e)
	if (p.o.Stream != "" && string(e.Stream) != p.o.Stream) || p.early[e.Stream] || !wanted(e.Stream) {
		return nil
	}
	w := p.stdout
	if e.Stream == crilog.Stderr {
		w = p.stderr
	}
	if w == nil {
		return nil
	}
	if w != p.to || len(p.pending) > maxPending {
		if err := p.flush(); err != nil {
			return err
		}
		p.to = w
	}
	if p.o.Timestamps && begins {
		p.pending = e.Time.AppendFormat(p.pending, stampFormat)
		p.pending = append(p.pending, ' ')
	}
	p.pending = append(p.pending, e.Text...)
	if !e.Partial {
		p.pending = append(p.pending, '\n')
	}
	return nil
}

// begins reports whether an entry starts a line, and notes whether that line began before Since.
func (p *printer) begins(e crilog.Entry) bool {
	if p.midLine == nil {
		p.midLine, p.early = map[crilog.Stream]bool{}, map[crilog.Stream]bool{}
	}
	begins := !p.midLine[e.Stream]
	if begins {
		p.early[e.Stream] = e.Time.Before(p.o.Since)
	}
	p.midLine[e.Stream] = e.Partial
	return begins
}

// flush writes the buffered output.
func (p *printer) flush() error {
	b := p.pending
	p.pending = p.pending[:0]
	if p.o.LimitBytes != nil {
		b = b[:min(int64(len(b)), p.left)]
		p.left -= int64(len(b))
	}
	if len(b) > 0 {
		if _, err := p.to.Write(b); err != nil {
			return err
		}
	}
	if p.o.LimitBytes != nil && p.left <= 0 {
		return errEnough
	}
	return nil
}
