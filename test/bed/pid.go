package bed

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processID identifies a process for good: the kernel reuses a pid, but not with the same start
// time.
type processID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat, in clock ticks since boot
	Boot  string `json:"boot"`  // the kernel's boot id, since start times begin anew at each boot
}

// identify reads the identity of a running process.
func identify(pid int) (processID, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processID{}, fmt.Errorf("looking up process %d: %w", pid, err)
	}
	// The name in field 2 may contain blanks and parentheses; the text after the last one is
	// regular.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return processID{}, fmt.Errorf("looking up process %d: unexpected content of stat file", pid)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processID{}, fmt.Errorf("reading the boot id: %w", err)
	}
	return processID{PID: pid, Start: fields[19], Boot: strings.TrimSpace(string(boot))}, nil
}

// alive reports whether the process still runs, even if another has its pid by now.
func (p processID) alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p && !zombie(p.PID)
}

func zombie(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && strings.Contains(string(status), "\nState:\tZ")
}

// kill ends the process with SIGKILL and waits up to 10 s for its end.
func (p processID) kill() error {
	if !p.alive() {
		return nil
	}
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return fmt.Errorf("killing process %d: %w", p.PID, err)
	}
	for range 1000 {
		if !p.alive() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("killing process %d: still there after 10 s", p.PID)
}
