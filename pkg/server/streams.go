package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// streamCreation bounds the time from the upgrade to the last stream of a SPDY client.
const streamCreation = 30 * time.Second

// session is the running container and the streams that a request asks for; if the container does
// not run, it answers the request.
func (s *Server) session(w http.ResponseWriter, r *http.Request) (t target, o *remotecommand.Options, id string, ok bool) {
	if t, ok = s.target(w, r); !ok {
		return t, nil, "", false
	}
	o, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return t, nil, "", false
	}
	id, ok = s.running(w, t)
	return t, o, id, ok
}

// exec runs a command with the client's streams, over SPDY or WebSocket.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	t, o, id, ok := s.session(w, r)
	if !ok {
		return
	}
	l, streams := &lingering{ResponseWriter: w}, &streamer{streams: s.config.Runtime}
	remotecommand.ServeExec(l, r, streams, t.pod.Name, string(t.pod.UID), id, r.URL.Query()["command"], o,
		s.config.StreamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
	l.finish(r.Context(), streams.served, s.config.Now)
}

// attach connects the client to the streams of the container's own process.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	t, o, id, ok := s.session(w, r)
	if !ok {
		return
	}
	l, streams := &lingering{ResponseWriter: w}, &streamer{streams: s.config.Runtime}
	remotecommand.ServeAttach(l, r, streams, t.pod.Name, string(t.pod.UID), id, o,
		s.config.StreamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
	l.finish(r.Context(), streams.served, s.config.Now)
}

// run runs a command and responds with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	t, ok := s.target(w, r)
	if !ok {
		return
	}
	id, ok := s.running(w, t)
	if !ok {
		return
	}
	cmd := strings.Fields(r.URL.Query().Get("cmd")) // as in kubelet: words, no shell
	out := &flushing{w: w, c: http.NewResponseController(w)}
	code, err := s.config.Runtime.Exec(r.Context(), id, runtime.ExecConfig{Command: cmd, IO: runtime.IO{Stdout: out, Stderr: out}})
	switch {
	case err != nil && !out.written:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case err != nil:
		_, _ = fmt.Fprintln(out, err)
	case err == nil && code != 0:
		_, _ = fmt.Fprintf(out, "command terminated with exit code %d\n", code)
	}
}

// running is the id of the container's running attempt; if there is none, it answers the request.
func (s *Server) running(w http.ResponseWriter, t target) (string, bool) {
	if c, _ := podspec.Find(t.pod, t.container); c == nil {
		http.Error(w, fmt.Sprintf("container not found (%q)", t.container), http.StatusNotFound)
		return "", false
	}
	c := t.observed.Latest(t.container)
	if c == nil || c.State != runtime.Running {
		http.Error(w, fmt.Sprintf("container %q of pod %q is not running", t.container, t.pod.Name), http.StatusInternalServerError)
		return "", false
	}
	return c.ID, true
}

// streamer adapts runtime.Streams to the interfaces of the streaming library.
type streamer struct {
	streams runtime.Streams
	served  bool // the client has made its streams
}

// ExecInContainer implements remotecommand.Executor.
//
//nolint:revive // the library's signature
func (s *streamer) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, stderr io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	s.served = true
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.streams.Exec(ctx, id, runtime.ExecConfig{
		Command: cmd, IO: runtime.IO{Stdin: in, Stdout: out, Stderr: stderr, TTY: tty, Resize: sizes(ctx, resize)},
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// AttachContainer implements remotecommand.Attacher.
//
//nolint:revive // the library's signature
func (s *streamer) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, stderr io.WriteCloser, tty bool,
	resize <-chan remotecommand.TerminalSize,
) error {
	s.served = true
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.streams.Attach(ctx, id, runtime.IO{Stdin: in, Stdout: out, Stderr: stderr, TTY: tty, Resize: sizes(ctx, resize)})
}

// sizes converts the library's terminal sizes until ctx ends; nil stays nil.
func sizes(ctx context.Context, resize <-chan remotecommand.TerminalSize) <-chan runtime.TerminalSize {
	if resize == nil {
		return nil
	}
	out := make(chan runtime.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-resize:
				if !ok {
					return
				}
				select {
				case out <- runtime.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// portForward copies between the client's streams and ports of the pod.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	t, ok := s.target(w, r)
	if !ok {
		return
	}
	o, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if t.observed.Sandbox == nil || !t.observed.Sandbox.Ready {
		http.Error(w, fmt.Sprintf("pod %q has no network yet", t.pod.Name), http.StatusInternalServerError)
		return
	}
	portforward.ServePortForward(w, r, forwarder{t.observed.Sandbox.Namespaces.Net}, t.pod.Name, string(t.pod.UID), o,
		s.config.StreamIdle, streamCreation, portforward.SupportedProtocols)
}

// forwarder connects to ports inside a network namespace; "" is the host's.
type forwarder struct{ netns string }

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer func() { _ = stream.Close() }()
	conn, err := dialIn(ctx, f.netns, port)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	copied := make(chan error, 2)
	go func() {
		_, err := io.Copy(conn, stream)
		if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		copied <- err
	}()
	go func() {
		_, err := io.Copy(stream, conn)
		copied <- errors.Join(err, errServerDone)
	}()
	for range 2 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-copied:
			if errors.Is(err, errServerDone) {
				return nil // the pod closed its side: nothing more can come
			}
		}
	}
	return nil
}

// errServerDone marks the end of the pod's side.
var errServerDone = errors.New("the pod closed the connection")
