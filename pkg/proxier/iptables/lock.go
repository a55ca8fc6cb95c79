package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile is the file that iptables-legacy locks while it works.
func lockFile() string {
	if path := os.Getenv("XTABLES_LOCKFILE"); path != "" {
		return path
	}
	return "/run/xtables.lock"
}

// lockHolder names the process that holds the xtables lock, for an error message; empty: unknown.
func lockHolder() string {
	var stat unix.Stat_t
	if err := unix.Stat(lockFile(), &stat); err != nil {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	pid := holderOf(string(locks), unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	if pid == 0 {
		return ""
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}

// holderOf finds the process that holds the lock of a file in the text of /proc/locks. Its lines
// are "1: FLOCK ADVISORY WRITE 1234 fe:00:5678 0 EOF" and, for processes that wait, "1: -> FLOCK
// …" (proc_locks(5)); 0: nobody.
func holderOf(locks string, major, minor uint32, inode uint64) int {
	file := fmt.Sprintf("%02x:%02x:%d", major, minor, inode)
	for _, line := range strings.Split(locks, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] == "->" || fields[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
