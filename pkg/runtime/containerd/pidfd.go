package containerd

import (
	"os"

	"golang.org/x/sys/unix"
)

// openPidfd opens a process, so that the kernel keeps its exit status; nil if that fails.
func openPidfd(pid int) *os.File {
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0) // close-on-exec always
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "pidfd")
}

// exitCode returns how the process ended: its exit code, or 128 plus the signal. Kernels before
// 6.15 do not tell (include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT).
func exitCode(pidfd *os.File) (code int, ok bool) {
	if pidfd == nil {
		return 0, false
	}
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, false
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	var asked error
	err = raw.Control(func(fd uintptr) { asked = unix.IoctlPidfdInfo(int(fd), &info) })
	if err != nil || asked != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	status := unix.WaitStatus(info.Exit_code)
	if status.Signaled() {
		return 128 + int(status.Signal()), true
	}
	return status.ExitStatus(), true
}
