// Package wire is CONTRACT: the words that a User-Mode Linux machine's command agent and its caller
// exchange.
//
// One TCP connection carries one command. The caller sends a JSON Request in a frame of kind
// KindRequest, then any number of KindStdin frames, the last of them empty. The agent answers with
// KindStdout and KindStderr frames in the order in which the output came, and ends with one
// KindExit frame (4 bytes, big endian, the exit code; 128+n for signal n) or one KindFailure frame
// (why the command could not be started). A caller that hangs up early has its command's process
// group killed.
//
// Frame: 1 byte kind, 4 bytes length (big endian), the bytes.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// Kind says what a frame holds.
type Kind byte

// The kinds of frame.
const (
	KindRequest Kind = iota + 1
	KindStdin
	KindStdout
	KindStderr
	KindExit
	KindFailure
)

// MaxFrame bounds a frame's payload in bytes.
const MaxFrame = 1 << 20

// Port is the port of the agent in the machine.
const Port = 1022

// Request is one command to run in the machine as root.
type Request struct {
	Token string   `json:"token"`         // as given on the kernel's command line
	Args  []string `json:"args"`          // argv; the first is looked up in PATH
	Env   []string `json:"env,omitempty"` // KEY=value, added to the agent's own
	Dir   string   `json:"dir,omitempty"` // working folder; empty: /
}

// Write sends one frame.
func Write(w io.Writer, k Kind, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("sending frame: %d bytes are more than %d", len(payload), MaxFrame)
	}
	buf := make([]byte, 5+len(payload))
	buf[0] = byte(k)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(payload)))
	copy(buf[5:], payload)
	_, err := w.Write(buf)
	return err
}

// Read receives one frame.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("receiving frame: %d bytes are more than %d", n, MaxFrame)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("receiving frame of %d bytes: %w", n, err)
	}
	return Kind(head[0]), payload, nil
}

// WriteRequest sends the first frame of a connection.
func WriteRequest(w io.Writer, q Request) error {
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encoding request: %w", err)
	}
	return Write(w, KindRequest, b)
}

// ReadRequest receives the first frame of a connection.
func ReadRequest(r io.Reader) (Request, error) {
	k, b, err := Read(r)
	if err != nil {
		return Request{}, err
	}
	if k != KindRequest {
		return Request{}, fmt.Errorf("receiving request: got a frame of kind %d first", k)
	}
	var q Request
	if err := json.Unmarshal(b, &q); err != nil {
		return Request{}, fmt.Errorf("decoding request: %w", err)
	}
	if len(q.Args) == 0 {
		return Request{}, fmt.Errorf("decoding request: no command")
	}
	return q, nil
}

// ExitCode is the payload of a KindExit frame.
func ExitCode(code int) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(int32(code)))
}

// ParseExitCode reads the payload of a KindExit frame.
func ParseExitCode(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("decoding exit code: %d bytes instead of 4", len(b))
	}
	return int(int32(binary.BigEndian.Uint32(b))), nil
}
