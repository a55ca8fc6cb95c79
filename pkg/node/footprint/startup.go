package footprint

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseStartup gives back what only starting needed: free heap, and the pages of the program's
// own file that were mapped while packages were initialized and parts were made. They are
// read-only and stay in the page cache; a page that is needed again is mapped by a minor fault
// (madvise(2), MADV_DONTNEED on a private file mapping that was never written).
func ReleaseStartup() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("finding the program's file: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("reading the program's mappings: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		// proc_pid_maps(5): range, permissions, offset, device, inode, path
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != exe || (f[1] != "r-xp" && f[1] != "r--p") {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &start, &end); err != nil {
			return fmt.Errorf("reading the mapping %q: %w", f[0], err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("releasing the mapping %q: %w", f[0], errno)
		}
	}
	return nil
}
