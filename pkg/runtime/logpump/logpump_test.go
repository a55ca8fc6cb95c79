package logpump_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/logdir"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/pump"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// pumpEnv makes this test program act as the pump: `logs` starts it detached, like the real
// program.
const pumpEnv = "LOGPUMP_TEST_SOCKET"

func TestMain(m *testing.M) {
	socket := os.Getenv(pumpEnv)
	if socket == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("LOGPUMP_TEST_SERVE") == "" {
		os.Remove(socket)
		self := exec.Command("/proc/self/exe")
		self.Env = append(os.Environ(), "LOGPUMP_TEST_SERVE=1")
		self.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := self.Start(); err != nil {
			os.Exit(1)
		}
		for range 500 { // until it answers
			if c, err := dial(socket); err == nil {
				c.Close()
				os.Exit(0)
			}
			time.Sleep(5 * time.Millisecond)
		}
		os.Exit(1)
	}
	l, err := listen(socket)
	if err != nil {
		os.Exit(1)
	}
	pump.New("test", time.Now).Serve(context.Background(), l)
}

// rig is a pump and one container's pipes. The test acts as the shim and keeps both ends open, like
// the real one.
type rig struct {
	*testing.T
	dir    string
	client *logpump.Client
	out    runtime.Output
	shim   []*os.File
	stdout *os.File
	stderr *os.File
	run    func()
}

func newRig(t *testing.T, size int64, files int) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir()}
	t.Setenv(pumpEnv, filepath.Join(r.dir, "sock"))
	r.connect(size, files)
	r.out = runtime.Output{
		ID: "c1", Stdout: filepath.Join(r.dir, "out"), Stderr: filepath.Join(r.dir, "err"),
		LogPath: filepath.Join(r.dir, "pod/c/0.log"), LinkPath: filepath.Join(r.dir, "links/c.log"),
	}
	for _, p := range []string{r.out.Stdout, r.out.Stderr} {
		if err := syscall.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.client.Open(t.Context(), r.out); err != nil {
		t.Fatal(err)
	}
	r.stdout, r.stderr = r.openShim(r.out.Stdout), r.openShim(r.out.Stderr)
	if err := r.client.Seal(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.run()
		r.killPump()
	})
	return r
}

func (r *rig) connect(size int64, files int) {
	c, err := logpump.New(logpump.Config{
		Program: "/proc/self/exe", Socket: filepath.Join(r.dir, "sock"), MaxSize: size, MaxFiles: files,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	r.client, r.run = c, func() { cancel(); <-done }
}

func (r *rig) openShim(path string) *os.File {
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		r.Fatal(err)
	}
	rd, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		r.Fatal(err)
	}
	r.shim = append(r.shim, w, rd)
	return w
}

// end is the container's exit: the shim closes the pipes.
func (r *rig) end() {
	r.Helper()
	for _, f := range r.shim {
		f.Close()
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	if err := r.client.Drain(ctx, "c1"); err != nil {
		r.Fatalf("draining: %v", err)
	}
}

// pumpPid asks the pump for its pid.
func (r *rig) pumpPid() int {
	conn, err := dial(filepath.Join(r.dir, "sock"))
	if err != nil {
		return 0
	}
	defer conn.Close()
	fmt.Fprintln(conn, `{"op":"hello"}`)
	line, _ := bufio.NewReader(conn).ReadString('\n')
	var pid int
	if _, rest, ok := strings.Cut(line, `"pid":`); ok {
		fmt.Sscanf(rest, "%d", &pid)
	}
	return pid
}

func (r *rig) killPump() {
	if pid := r.pumpPid(); pid > 1 {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (r *rig) read(o runtime.LogOptions) string {
	r.Helper()
	var b bytes.Buffer
	if err := logpump.Read(r.Context(), r.out.LogPath, o, &b, &b); err != nil {
		r.Fatalf("reading: %v", err)
	}
	return b.String()
}

func TestLinesOfBothStreamsAndTheLink(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	io.WriteString(r.stdout, "one\ntwo\n")
	io.WriteString(r.stderr, "bad\n")
	time.Sleep(50 * time.Millisecond)
	io.WriteString(r.stdout, "no newline")
	r.end()
	raw, err := os.ReadFile(r.out.LinkPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" stdout F one\n", " stdout F two\n", " stderr F bad\n", " stdout P no newline\n"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("log %q lacks %q", raw, want)
		}
	}
	if got := r.read(runtime.LogOptions{Stream: string(crilog.Stdout)}); got != "one\ntwo\nno newline" {
		t.Errorf("read %q", got)
	}
	if err := r.client.Remove(t.Context(), r.out); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "*/*.log")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRotationKeepsTheLimitAndReadersCrossIt(t *testing.T) {
	const size, files, lines = 4096, 30, 3000
	r := newRig(t, size, files)
	var followed lockedBuffer
	var ended atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- logpump.Read(t.Context(), r.out.LogPath, runtime.LogOptions{Follow: true, Ended: ended.Load}, &followed, &followed)
	}()
	w := bufio.NewWriter(r.stdout)
	for i := range lines {
		fmt.Fprintf(w, "line %06d\n", i)
		// in several reads, and slow enough for the follower not to lose files for good
		if i%20 == 0 {
			w.Flush()
			time.Sleep(2 * time.Millisecond)
			r.until("the follower keeps up", func() bool { return len(followed.String()) >= (i-1000)*len("line 000000\n") })
		}
	}
	w.Flush()
	r.end()
	ended.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %06d\n", i)
	}
	if got := followed.String(); got != want.String() {
		t.Errorf("the follower got %d bytes of %d; first difference at %d", len(got), want.Len(), diff(got, want.String()))
	}
	var rotated []string
	r.until("all rotated files but one place for the file in use are kept", func() bool {
		rotated = logdir.Rotated(r.out.LogPath)
		return len(rotated) == files-1
	})
	for _, f := range append(rotated, r.out.LogPath) {
		if info, err := os.Stat(f); err != nil || info.Size() > size {
			t.Errorf("%s: %v, %d bytes", f, err, info.Size())
		}
	}
	all := r.read(runtime.LogOptions{})
	if !strings.HasSuffix(want.String(), all) || len(all) < 2*size/4 {
		t.Errorf("reading what is kept gave %d bytes that are not the end of the log", len(all))
	}
	for _, n := range []int64{0, 1, 5, 100, 150} {
		if got, tail := r.read(runtime.LogOptions{Tail: &n}), want.String()[want.Len()-int(n)*12:]; got != tail {
			t.Errorf("the last %d lines: got %q…, want %q…", n, head(got), head(tail))
		}
	}
}

func TestCompression(t *testing.T) {
	r := newRig(t, 2048, 4)
	for i := range 400 {
		fmt.Fprintf(r.stdout, "line %06d\n", i)
	}
	r.end()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		names := logdir.Rotated(r.out.LogPath)
		if len(names) == 3 && strings.HasSuffix(names[0], ".gz") && strings.HasSuffix(names[1], ".gz") && !strings.HasSuffix(names[2], ".gz") {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("files %v: want all but the newest compressed", names)
		}
	}
	n := int64(120)
	got := r.read(runtime.LogOptions{Tail: &n})
	if !strings.HasSuffix(got, "line 000399\n") || strings.Count(got, "\n") != 120 || !strings.HasPrefix(got, "line 000280\n") {
		t.Errorf("the last 120 lines over compressed files: %q…", head(got))
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	log := "2026-01-01T00:00:00Z stdout F old\n2026-01-01T00:00:01Z stderr P par\n2026-01-01T00:00:02Z stdout F new\n" +
		"2026-01-01T00:00:03Z stderr F tial\ngarbage\n"
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := int64(6)
	for _, c := range []struct {
		o           runtime.LogOptions
		stdout, all string
	}{
		{runtime.LogOptions{}, "old\nnew\n", "old\nparnew\ntial\n"},
		// whole lines
		{runtime.LogOptions{Since: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)}, "new\n", "new\n"},
		{runtime.LogOptions{LimitBytes: &limit}, "old\nne", "old\npa"},
		{
			runtime.LogOptions{Timestamps: true},
			"2026-01-01T00:00:00.000000000Z old\n2026-01-01T00:00:02.000000000Z new\n",
			"2026-01-01T00:00:00.000000000Z old\n2026-01-01T00:00:01.000000000Z par2026-01-01T00:00:02.000000000Z new\ntial\n",
		},
	} {
		var all bytes.Buffer
		if err := logpump.Read(t.Context(), path, c.o, &all, &all); err != nil || all.String() != c.all {
			t.Errorf("%+v: both streams %q (%v), want %q", c.o, all.String(), err, c.all)
		}
		c.o.Stream = string(crilog.Stdout)
		var out bytes.Buffer
		if err := logpump.Read(t.Context(), path, c.o, &out, nil); err != nil || out.String() != c.stdout {
			t.Errorf("%+v: stdout %q (%v), want %q", c.o, out.String(), err, c.stdout)
		}
	}
	if err := logpump.Read(t.Context(), path+"x", runtime.LogOptions{}, io.Discard, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing log says %v", err)
	}
}

func TestNothingIsLostWhenAgentsComeAndGo(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	stop := r.writeCounting(3000)
	for range 5 {
		time.Sleep(30 * time.Millisecond)
		r.run() // the agent goes …
		r.connect(1<<20, 3)
		sealed := r.out
		sealed.Sealed = true
		if err := r.client.Open(t.Context(), sealed); err != nil { // … and the next one adopts
			t.Fatal(err)
		}
	}
	stop()
	r.end()
	r.complete(3000)
}

func TestAKilledPumpIsReplaced(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	stop := r.writeCounting(3000)
	for range 3 {
		time.Sleep(50 * time.Millisecond)
		before := r.pumpPid()
		r.killPump()
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			if pid := r.pumpPid(); pid != 0 && pid != before {
				break
			}
			if time.Since(began) > patience {
				t.Fatal("no new pump")
			}
		}
	}
	stop()
	r.end()
	// The pipes keep what is not in the log, even if the container exited while no pump ran.
	text := r.read(runtime.LogOptions{})
	for i := range 3000 {
		if line := fmt.Sprintf("line %06d\n", i); !strings.Contains(text, line) {
			t.Errorf("line %d is missing", i)
		}
	}
}

func TestAKilledPumpLosesNoHalfLine(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	io.WriteString(r.stdout, "Downloading 100 files: ")
	r.until("the half line is in the log", func() bool { return r.read(runtime.LogOptions{}) == "Downloading 100 files: " })
	before := r.pumpPid()
	r.killPump()
	r.until("there is a new pump", func() bool { pid := r.pumpPid(); return pid != 0 && pid != before })
	io.WriteString(r.stdout, "done\nnext\n")
	r.end()
	if got := r.read(runtime.LogOptions{}); got != "Downloading 100 files: done\nnext\n" {
		t.Errorf("read %q", got)
	}
	one := int64(2)
	if got := r.read(runtime.LogOptions{Tail: &one}); got != "Downloading 100 files: done\nnext\n" {
		t.Errorf("the last two lines: %q", got)
	}
}

// patience is far more than anything here takes, so that a busy machine fails no test.
const patience = time.Minute

// until polls until ok returns true.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			r.Fatalf("never: %s", what)
		}
	}
}

func TestALogThatCannotBeWrittenHoldsNobodyUp(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	out := r.out
	out.ID, out.Stdout, out.Stderr = "c2", filepath.Join(r.dir, "out2"), filepath.Join(r.dir, "err2")
	folder := filepath.Join(r.dir, "full")
	out.LogPath, out.LinkPath = filepath.Join(folder, "0.log"), filepath.Join(folder, "link.log")
	if err := os.WriteFile(folder, nil, 0o600); err != nil { // no folder can be made there
		t.Fatal(err)
	}
	if err := r.client.Open(t.Context(), out); err == nil {
		t.Fatal("joining pipes that are not there is no error")
	}
	for _, p := range []string{out.Stdout, out.Stderr} {
		if err := syscall.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stdout := r.openShim(out.Stdout)
	defer stdout.Close()
	wrote := make(chan error, 1)
	go func() { // more than the pipe holds: it goes through once the pump has joined by itself
		_, err := stdout.Write(bytes.Repeat([]byte("lost line\n"), 20_000))
		wrote <- err
	}()
	select {
	case err := <-wrote:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the container is blocked: its pipe is full and nobody reads")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	r.until("the log goes on", func() bool {
		io.WriteString(stdout, "again\n")
		text, err := os.ReadFile(out.LinkPath)
		return err == nil && strings.Contains(string(text), " stdout F again\n")
	})
}

// writeCounting writes numbered lines in the background; stop waits for the last one.
func (r *rig) writeCounting(lines int) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range lines {
			fmt.Fprintf(r.stdout, "line %06d\n", i)
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return func() { <-done }
}

func (r *rig) complete(lines int) {
	r.Helper()
	got := strings.Split(strings.TrimSuffix(r.read(runtime.LogOptions{}), "\n"), "\n")
	if len(got) != lines {
		r.Fatalf("%d lines of %d", len(got), lines)
	}
	for i, line := range got {
		if line != fmt.Sprintf("line %06d", i) {
			r.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestAPumpOfAnotherBuildIsReplacedWhenItIsIdle(t *testing.T) {
	r := newRig(t, 1<<20, 3)
	renew := func(wait time.Duration) (before, after int) {
		r.run()
		before = r.pumpPid()
		c, err := logpump.New(logpump.Config{
			Program: "/proc/self/exe", Socket: filepath.Join(r.dir, "sock"), Build: "newer",
			MaxSize: 1 << 20, MaxFiles: 3, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { c.Run(ctx); close(done) }()
		r.client, r.run = c, func() { cancel(); <-done }
		for began := time.Now(); time.Since(began) < wait; time.Sleep(5 * time.Millisecond) {
			if after = r.pumpPid(); after != 0 && after != before {
				break
			}
		}
		return before, after
	}
	if before, after := renew(500 * time.Millisecond); before != after {
		t.Errorf("the pump of a running container was replaced: %d by %d", before, after)
	}
	io.WriteString(r.stdout, "still here\n")
	r.end()
	if got := r.read(runtime.LogOptions{}); got != "still here\n" {
		t.Errorf("read %q", got)
	}
	if err := r.client.Remove(t.Context(), r.out); err != nil {
		t.Fatal(err)
	}
	if before, after := renew(patience); before == after {
		t.Errorf("the idle pump %d was kept", before)
	}
}

func TestASlowClientGetsAll(t *testing.T) {
	r := newRig(t, 64<<20, 2)
	got, ended := make(chan int, 1), make(chan error, 1)
	var begun atomic.Bool
	go func() {
		taken := 0
		ended <- r.client.Attach(context.Background(), "c1", runtime.IO{Stdout: writerFunc(func(b []byte) (int, error) {
			begun.Store(true)
			if taken%(1<<20) < len(b) {
				time.Sleep(20 * time.Millisecond)
			}
			taken += len(b)
			return len(b), nil
		})})
		got <- taken
	}()
	r.until("the client is attached", func() bool { io.WriteString(r.stdout, "hi\n"); return begun.Load() })
	const size = 24 << 20 // more than all that is on the way can hold
	if _, err := r.stdout.Write(bytes.Repeat([]byte("0123456789abcde\n"), size/16)); err != nil {
		t.Fatal(err)
	}
	r.end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := <-got; n < size {
		t.Errorf("the client got %d of %d bytes", n, size)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestAStuckClientHoldsNobodyUp(t *testing.T) {
	r := newRig(t, 64<<20, 2)
	block := make(chan struct{})
	ended := make(chan error, 1)
	var begun atomic.Bool
	go func() {
		ended <- r.client.Attach(context.Background(), "c1", runtime.IO{Stdout: writerFunc(func(b []byte) (int, error) {
			begun.Store(true)
			<-block
			return len(b), nil
		})})
	}()
	r.until("the client is attached", func() bool { io.WriteString(r.stdout, "hi\n"); return begun.Load() })
	line := strings.Repeat("x", 1023) + "\n"
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for range 8 << 10 { // 8 MiB
			io.WriteString(r.stdout, line)
		}
	}()
	select {
	case <-wrote:
	case <-time.After(patience):
		t.Fatal("the container is blocked by a client")
	}
	close(block)
	if err := <-ended; !errors.Is(err, logpump.ErrSlow) {
		t.Errorf("the client is told %v, want ErrSlow", err)
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := wire.WriteFrame(&b, wire.FrameStderr, []byte("x")); err != nil {
		t.Fatal(err)
	}
	kind, data, err := wire.ReadFrame(&b, make([]byte, 10))
	if err != nil || kind != wire.FrameStderr || string(data) != "x" {
		t.Errorf("got %v %q %v", kind, data, err)
	}
	if _, _, err := wire.ReadFrame(strings.NewReader("\xff\xff\xff\xff\xff"), make([]byte, 10)); !errors.Is(err, wire.ErrFrame) {
		t.Errorf("garbage says %v", err)
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

func diff(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func head(s string) string { return s[:min(len(s), 60)] }
