package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func streamCases() []testCase {
	return []testCase{
		{"output is in the log, whole, when the end is seen", logs},
		{"exec gives output, input and exit code", execs},
		{"exec of a missing command is an error", execMissing},
		{"exec ends with its context", execCancelled},
		{"exec and attach need a running container", streamsOfEnded},
		{"attach joins output and input", attach},
	}
}

func logs(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "sh", "-c", "echo one two; echo three")
	b.start(config)
	b.exited(ref.UID)
	raw, err := os.ReadFile(config.LogPath)
	b.noError(err)
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], " stdout F one two") || !strings.HasSuffix(lines[1], " stdout F three") {
		b.Errorf("log %q", raw)
	}
}

func execs(b *bench) {
	_, c := b.running("sleep", "1000")
	var out, errOut bytes.Buffer
	code, err := b.Runtime.Exec(b.ctx, c.ID, runtime.ExecConfig{Command: []string{"echo", "hi", "there"}, IO: runtime.IO{Stdout: &out, Stderr: &errOut}})
	if err != nil || code != 0 || out.String() != "hi there\n" || errOut.Len() != 0 {
		b.Errorf("echo: code %d, %v, output %q, %q", code, err, out.String(), errOut.String())
	}
	code, err = b.Runtime.Exec(b.ctx, c.ID, runtime.ExecConfig{Command: []string{"sh", "-c", "exit 42"}})
	if err != nil || code != 42 {
		b.Errorf("exit 42: code %d, %v", code, err)
	}
	out.Reset()
	input := strings.Repeat("0123456789abcdef", 16<<10) // more than a pipe holds
	code, err = b.Runtime.Exec(b.ctx, c.ID, runtime.ExecConfig{Command: []string{"cat"}, IO: runtime.IO{Stdin: strings.NewReader(input), Stdout: &out}})
	if err != nil || code != 0 || out.String() != input {
		b.Errorf("cat: code %d, %v, %d bytes back of %d", code, err, out.Len(), len(input))
	}
}

func execMissing(b *bench) {
	_, c := b.running("sleep", "1000")
	code, err := b.Runtime.Exec(b.ctx, c.ID, runtime.ExecConfig{Command: []string{"/no/such/program"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		b.Errorf("got code %d, %v", code, err)
	}
}

func execCancelled(b *bench) {
	_, c := b.running("sleep", "1000")
	ctx, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
	defer cancel()
	_, err := b.Runtime.Exec(ctx, c.ID, runtime.ExecConfig{Command: []string{"sleep", "1000"}})
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		b.Errorf("got %v", err)
	}
}

func streamsOfEnded(b *bench) {
	ref, c := b.running("sleep", "1000")
	b.noError(b.Runtime.Signal(b.ctx, c.ID, syscall.SIGKILL))
	b.exited(ref.UID)
	if _, err := b.Runtime.Exec(b.ctx, c.ID, runtime.ExecConfig{Command: []string{"true"}}); err == nil {
		b.Error("exec in an exited container is no error")
	}
	if err := b.Runtime.Attach(b.ctx, c.ID, runtime.IO{}); err == nil {
		b.Error("attach to an exited container is no error")
	}
	if _, err := b.Runtime.Exec(b.ctx, "0123", runtime.ExecConfig{Command: []string{"true"}}); !errors.Is(err, runtime.ErrNotFound) {
		b.Errorf("exec in an unknown container: %v, want ErrNotFound", err)
	}
}

func attach(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "cat")
	config.Stdin, config.StdinOnce = true, true
	c := b.start(config)
	if c.State != runtime.Running {
		b.Fatalf("got %+v", c)
	}
	client := func() (send *io.PipeWriter, out *lockedBuffer, ended chan error) {
		out, ended = &lockedBuffer{}, make(chan error, 1)
		input, send := io.Pipe()
		go func(r runtime.Runtime) { ended <- r.Attach(b.ctx, c.ID, runtime.IO{Stdin: input, Stdout: out}) }(b.Runtime)
		return send, out, ended
	}
	echo := func(send io.Writer, out *lockedBuffer, line string) {
		_, _ = io.WriteString(send, line)
		for try := 0; !strings.HasSuffix(out.String(), line); try++ {
			if time.Sleep(5 * time.Millisecond); try > 12000 {
				b.Fatalf("output %q, want %q", out.String(), line)
			}
		}
	}
	send, out, old := client()
	echo(send, out, "hello\n")
	b.Runtime = b.Restart(b.TB) // ends the client, not the container
	if now := b.get(ref.UID).Latest("main"); now == nil || now.State != runtime.Running {
		b.Fatalf("after the restart: %+v", now)
	}
	send2, out2, ended := client()
	echo(send2, out2, "again\n")
	_ = send2.Close() // stdinOnce: ends the container's input
	if end := b.exited(ref.UID); end.ExitCode != 0 {
		b.Errorf("got %+v, want exit code 0", end)
	}
	for _, e := range []chan error{old, ended} {
		late := time.NewTimer(patience)
		select {
		case err := <-e:
			b.Logf("attach ended: %v", err) // with or without an error
		case <-late.C:
			b.Fatal("attach outlives the container")
		}
		late.Stop()
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
