package containerd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// slowWriter takes its time for the end of the output, as `kubectl exec … | slow` does.
type slowWriter struct {
	fast, taken int
	pause       time.Duration
}

func (s *slowWriter) Write(b []byte) (int, error) {
	if s.taken += len(b); s.taken > s.fast {
		time.Sleep(s.pause)
	}
	return len(b), nil
}

func TestASlowReaderGetsTheWholeOutputOfACommand(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	const size = 1 << 20
	// more than the pipes hold
	out := &slowWriter{fast: size - 140<<10, pause: 1300 * time.Millisecond}
	code, err := h.agent.Exec(t.Context(), c.ID, runtime.ExecConfig{
		Command: []string{"head", "-c", "1048576", "/dev/zero"}, IO: runtime.IO{Stdout: out},
	})
	if err != nil || code != 0 || out.taken != size {
		t.Errorf("code %d, %v, %d of %d bytes", code, err, out.taken, size)
	}
}

func TestTheExitCodeCountsNotWhatACommandLeavesBehind(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	var out bytes.Buffer
	var gone sync.WaitGroup
	gone.Add(1)
	began := time.Now()
	code, err := h.agent.Exec(t.Context(), c.ID, runtime.ExecConfig{
		Command: []string{"sh", "-c", "echo said; sleep 1000 & exit 3"}, IO: runtime.IO{Stdout: &out}, Gone: gone.Done,
	})
	if took := time.Since(began); err != nil || code != 3 || out.String() != "said\n" || took > patience {
		t.Errorf("code %d, %v, output %q after %s; want 3 and the output, without waiting for what was left behind", code, err, out.String(), took)
	}
	gone.Wait() // once the shim has let go of it

	// A caller whose time is up before the output is complete learns the exit code all the same.
	// The context ends seconds after the command has.
	gone.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := &endingWriter{lines: 30, end: cancel}
	code, err = h.agent.Exec(ctx, c.ID, runtime.ExecConfig{
		Command: []string{"sh", "-c", "while echo more; do sleep 0.1; done & exit 4"}, IO: runtime.IO{Stdout: left}, Gone: gone.Done,
	})
	if !errors.Is(err, runtime.ErrOutputCut) || code != 4 {
		t.Errorf("code %d, %v; want 4 and ErrOutputCut", code, err)
	}
	gone.Wait()
	if left, _ := os.ReadDir(h.path("run/exec")); len(left) > 0 {
		t.Errorf("folders of commands are left: %v", left)
	}
}

// endingWriter calls end once it has been given so many lines.
type endingWriter struct {
	lines int
	end   func()
}

func (w *endingWriter) Write(b []byte) (int, error) {
	if w.lines -= bytes.Count(b, []byte("\n")); w.lines <= 0 {
		w.end()
	}
	return len(b), nil
}

func TestCommandsThatCannotBeStartedLeaveNoDescriptor(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	h.exec(c.ID, "true") // connections are open
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := open()
	var had syscall.Rlimit
	must(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &had))
	failed := 0
	for free := range 8 {
		var err error
		few := had
		few.Cur = uint64(before - 1 + free)
		var gone atomic.Bool
		must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		_, err = h.agent.Exec(t.Context(), c.ID, runtime.ExecConfig{
			Command: []string{"true"}, IO: runtime.IO{Stdin: strings.NewReader("")}, Gone: func() { gone.Store(true) },
		})
		must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &had))
		if err != nil {
			failed++
		}
		h.until("nothing is left of the command", gone.Load)
	}
	if failed == 0 {
		t.Fatal("no command failed for want of descriptors: the test shows nothing")
	}
	h.until("every descriptor is closed", func() bool { return open() <= before })
}

func TestACommandGivenUpWhileItIsMadeIsRemoved(t *testing.T) {
	h := newHost(t)
	h.start()
	_, c := h.pod(1, "sleep", "1000")
	var gone sync.WaitGroup
	for i := range 40 {
		gone.Add(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		_, _ = h.agent.Exec(ctx, c.ID, runtime.ExecConfig{Command: []string{"sleep", "4242"}, Gone: gone.Done})
		cancel()
	}
	gone.Wait()
	if left := h.exec(c.ID, "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c '^sleep 4242' || true"); left != "0" {
		t.Errorf("%s processes are left", left)
	}
}
