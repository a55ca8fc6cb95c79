// Package wire is PURE: what the agent and the log pump say to each other over a unix socket.
//
// The agent opens a connection for each request, writes one Request as a line of JSON and reads one
// Response as a line of JSON. After a successful attach the connection carries frames both ways; a
// watch connection stays open and silent, so that its end tells of the pump's. The pump may be
// older than the agent: it outlives agents. So fields are only ever added, and an operation that a
// pump does not know is an error that the agent must live with.
package wire

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Version of the protocol; it changes only when an older peer could not be talked to at all.
const Version = 1

// Op says what is asked.
type Op string

// The operations.
const (
	Hello  Op = "hello"  // who are you
	Watch  Op = "watch"  // answer, then keep the connection open
	Open   Op = "open"   // join the streams of a container; no error when they are joined already
	Seal   Op = "seal"   // the task runs: the end of the pipes is the end of the output
	Drain  Op = "drain"  // answer when all output is in the file
	Attach Op = "attach" // frames of the streams from here on
	Close  Op = "close"  // leave the streams and forget the container
	Quit   Op = "quit"   // end the pump, when it holds no container
)

// Request is one question.
type Request struct {
	Op Op `json:"op"`
	// of the container; for all but hello, watch and open
	ID     string          `json:"id,omitempty"`
	Output *runtime.Output `json:"output,omitempty"`
	Limits *Limits         `json:"limits,omitempty"`
	// Stdin says that an attached client sends input.
	Stdin bool `json:"stdin,omitempty"`
}

// Limits are when log files are rotated, and how many are kept.
type Limits struct {
	MaxSize  int64 `json:"maxSize"`  // bytes of one file; no file gets longer
	MaxFiles int   `json:"maxFiles"` // of one container, the one being written included; at least 2
}

// Response is the answer.
type Response struct {
	Error string `json:"error,omitempty"`
	// the error is that the pump does not know the container
	NotFound bool   `json:"notFound,omitempty"`
	Version  int    `json:"version,omitempty"`
	Build    string `json:"build,omitempty"` // of the program, for hello and watch
	Pid      int    `json:"pid,omitempty"`
	// Containers are the ids that the pump reads, for hello and watch.
	Containers []string `json:"containers,omitempty"`
}

// Kind is what a frame holds.
type Kind byte

// The kinds of frames. FrameStdinEnd is the end of the client's input, FrameEnd that of the
// container's output.
const (
	FrameStdin Kind = iota
	FrameStdout
	FrameStderr
	FrameStdinEnd
	FrameEnd
	FrameLost // the client was too slow and is let go
)

// MaxFrame is the longest payload of a frame, in bytes.
const MaxFrame = 64 << 10

// ErrFrame means that the peer does not speak this protocol.
var ErrFrame = errors.New("malformed frame from the log pump's socket")

// WriteFrame writes one frame in one call of w.Write.
func WriteFrame(w io.Writer, kind Kind, data []byte) error {
	frame := make([]byte, 5+len(data))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(data)))
	copy(frame[5:], data)
	_, err := w.Write(frame)
	return err
}

// ReadFrame reads one frame; its data is valid until buf is used again.
func ReadFrame(r io.Reader, buf []byte) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame || int(n) > cap(buf) || Kind(head[0]) > FrameLost {
		return 0, nil, ErrFrame
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, err
	}
	return Kind(head[0]), buf[:n], nil
}
