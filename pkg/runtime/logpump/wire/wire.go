// Package wire is PURE: the protocol between the agent and the log pump over a unix socket.
//
// The agent opens a connection for each request, writes one Request as a line of JSON and reads one
// Response as a line of JSON. After a successful attach the connection carries frames both ways. A
// watch connection stays open and silent, so that its end signals the end of the pump.
//
// The pump may be older than the agent, since it outlives agents. Therefore fields are only ever
// added, and agents must cope with a pump that does not know an operation.
package wire

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Version of the protocol. It changes only if an older peer could not be talked to at all.
const Version = 1

// Op names the operation.
type Op string

// The operations.
const (
	Hello  Op = "hello"  // version and build of the pump
	Watch  Op = "watch"  // answer, then keep the connection open
	Open   Op = "open"   // open the streams of a container; no error if they are open
	Seal   Op = "seal"   // the task runs: its output ends when its pipes do
	Drain  Op = "drain"  // answer once all output is in the log
	Attach Op = "attach" // frames of the streams from here on
	Close  Op = "close"  // close the streams and forget the container
	Quit   Op = "quit"   // end the pump, if it serves no container
)

// Request is one request.
type Request struct {
	Op Op `json:"op"`
	// ID of the container; for all but hello, watch and open
	ID     string          `json:"id,omitempty"`
	Output *runtime.Output `json:"output,omitempty"`
	Limits *Limits         `json:"limits,omitempty"`
	// Stdin means that an attached client sends input.
	Stdin bool `json:"stdin,omitempty"`
}

// Limits say when log files are rotated and how many are kept.
type Limits struct {
	MaxSize  int64 `json:"maxSize"`  // largest size of a file in bytes
	MaxFiles int   `json:"maxFiles"` // per container, including the file in use; at least 2
}

// Response is the answer to a Request.
type Response struct {
	Error string `json:"error,omitempty"`
	// NotFound means that the pump does not know the container
	NotFound bool   `json:"notFound,omitempty"`
	Version  int    `json:"version,omitempty"`
	Build    string `json:"build,omitempty"` // of the program, for hello and watch
	Pid      int    `json:"pid,omitempty"`
	// Containers lists the ids of open containers, for hello and watch.
	Containers []string `json:"containers,omitempty"`
}

// Kind says what a frame holds.
type Kind byte

// The kinds of frames. FrameStdinEnd ends the client's input, FrameEnd the container's output.
const (
	FrameStdin Kind = iota
	FrameStdout
	FrameStderr
	FrameStdinEnd
	FrameEnd
	FrameLost // the client was too slow and is disconnected
)

// MaxFrame is the longest payload of a frame in bytes.
const MaxFrame = 64 << 10

// ErrFrame means that the peer does not speak this protocol.
var ErrFrame = errors.New("malformed frame from the log pump's socket")

// WriteFrame writes one frame with one call of w.Write.
func WriteFrame(w io.Writer, kind Kind, data []byte) error {
	frame := make([]byte, 5+len(data))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(data)))
	copy(frame[5:], data)
	_, err := w.Write(frame)
	return err
}

// ReadFrame reads one frame. Its data is valid until buf is reused.
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
