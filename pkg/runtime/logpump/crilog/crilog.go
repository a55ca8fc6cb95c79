// Package crilog is PURE: the log format that kubelet, log shippers and `kubectl logs` read. Each
// line is an entry:
//
//	2006-01-02T15:04:05.999999999Z stdout F the text
//
// F ends a line of the container's output; P is a piece of a line that continues in the next entry
// of the same stream. KEP 1094 and the CRI define the format (k8s.io/cri-api, "Logging format").
package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// MaxLine is the longest text of an entry in bytes; longer lines are split.
const MaxLine = 16 << 10

// Stream names the output that an entry came from.
type Stream string

// The two streams of a container.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Entry is one line of a log file.
type Entry struct {
	Time    time.Time
	Stream  Stream
	Partial bool
	Text    []byte // without the newline; points into the parsed line
}

// ErrFormat is wrapped by every error of Parse.
var ErrFormat = errors.New("not a CRI log line")

// Append appends the entry to b, with a newline.
func (e Entry) Append(b []byte) []byte {
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, e.Stream...)
	if e.Partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, e.Text...)
	return append(b, '\n')
}

// Parse parses one line, with or without its newline. It ignores colon-separated tags after the
// first.
func Parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return Entry{}, fmt.Errorf("%w: no time stamp in %.40q", ErrFormat, line)
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Entry{}, fmt.Errorf("%w: time stamp %.40q", ErrFormat, stamp)
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if s := Stream(stream); !ok || (s != Stdout && s != Stderr) {
		return Entry{}, fmt.Errorf("%w: stream %.20q", ErrFormat, stream)
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Entry{}, fmt.Errorf("%w: no text after tag %.20q", ErrFormat, tags)
	}
	e := Entry{Time: at, Stream: Stream(stream), Text: text}
	switch first, _, _ := bytes.Cut(tags, []byte{':'}); string(first) {
	case "P":
		e.Partial = true
	case "F":
	default:
		return Entry{}, fmt.Errorf("%w: tag %.20q", ErrFormat, first)
	}
	return e, nil
}

// Splitter splits a stream of bytes into entries. The zero value with a Stream is ready.
type Splitter struct {
	Stream  Stream
	pending []byte
}

// Split appends to out the entries that data completes, all stamped now. The rest of data waits for
// its newline.
func (s *Splitter) Split(out, data []byte, now time.Time) []byte {
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		data = rest
		for len(s.pending)+len(line) > MaxLine {
			n := MaxLine - len(s.pending)
			out = s.emit(out, line[:n], true, now)
			line = line[n:]
		}
		if !ended {
			s.pending = append(s.pending, line...)
			return out
		}
		out = s.emit(out, line, false, now)
	}
	return out
}

// Flush appends the waiting rest as a partial entry: the output ended without a newline.
func (s *Splitter) Flush(out []byte, now time.Time) []byte {
	if len(s.pending) == 0 {
		return out
	}
	return s.emit(out, nil, true, now)
}

func (s *Splitter) emit(out, tail []byte, partial bool, now time.Time) []byte {
	text := tail
	if len(s.pending) > 0 {
		text = append(s.pending, tail...)
	}
	out = Entry{Time: now, Stream: s.Stream, Partial: partial, Text: text}.Append(out)
	s.pending = nil // an idle stream holds no memory
	return out
}
