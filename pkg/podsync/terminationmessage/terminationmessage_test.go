package terminationmessage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/terminationmessage"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func message(t *testing.T, c runtime.Container, policy corev1.TerminationMessagePolicy) string {
	t.Helper()
	return terminationmessage.Reader{}.Message(t.Context(), c, policy, 4096)
}

func TestFile(t *testing.T) {
	name := write(t, "DONE")
	if m := message(t, runtime.Container{MessagePath: name}, corev1.TerminationMessageReadFile); m != "DONE" {
		t.Errorf("got %q", m)
	}
	long := write(t, strings.Repeat("a", 5000)+"end")
	if m := message(t, runtime.Container{MessagePath: long}, corev1.TerminationMessageReadFile); len(m) != 4096 || !strings.HasSuffix(m, "end") {
		t.Errorf("of a long file: %d bytes, ends with %q", len(m), m[len(m)-3:])
	}
	if m := message(t, runtime.Container{MessagePath: name + "-not"}, corev1.TerminationMessageReadFile); m != "" {
		t.Errorf("of no file: %q", m)
	}
}

func TestWhatAContainerPutsInItsPlaceIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(write(t, "the node's own"), link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, fifo, dir} {
		if m := message(t, runtime.Container{MessagePath: name}, corev1.TerminationMessageReadFile); m != "" {
			t.Errorf("%s: %q", name, m)
		}
	}
}

func TestLogs(t *testing.T) {
	const fallback = corev1.TerminationMessageFallbackToLogsOnError
	line := func(tag, text string) string {
		return "2026-01-02T03:04:05.000000006Z stderr " + tag + " " + text + "\n"
	}
	name := write(t, line("F", "first")+line("P", "DO")+line("P", "NE"))
	if m := message(t, runtime.Container{LogPath: name, ExitCode: 1}, fallback); m != "first\nDONE" {
		t.Errorf("from the log: %q", m)
	}
	if m := message(t, runtime.Container{LogPath: name, ExitCode: 0}, fallback); m != "" {
		t.Errorf("of a success: %q", m)
	}
	if m := message(t, runtime.Container{LogPath: name, ExitCode: 1}, corev1.TerminationMessageReadFile); m != "" {
		t.Errorf("with policy File: %q", m)
	}
	if m := message(t, runtime.Container{LogPath: name, ExitCode: 1, MessagePath: write(t, "own")}, fallback); m != "own" {
		t.Errorf("with a message of its own: %q", m)
	}
	var many strings.Builder
	for i := range 1000 {
		many.WriteString(line("F", fmt.Sprint(i)))
	}
	m := message(t, runtime.Container{LogPath: write(t, many.String()), ExitCode: 1}, fallback)
	if !strings.HasPrefix(m, "920\n") || !strings.HasSuffix(m, "999\n") {
		t.Errorf("of 1000 lines: %q", m)
	}
	wide := write(t, strings.Repeat(line("F", strings.Repeat("w", 500)), 100))
	if m := message(t, runtime.Container{LogPath: wide, ExitCode: 1}, fallback); len(m) != 2048 {
		t.Errorf("of wide lines: %d bytes", len(m))
	}
	if m := message(t, runtime.Container{LogPath: write(t, "garbage\x00\xff\n"), ExitCode: 1}, fallback); m != "" {
		t.Errorf("of garbage: %q", m)
	}
}
