package containerd

import (
	"os"

	"golang.org/x/sys/unix"
)

// openPidfd holds on to a process, so that the kernel keeps how it ended; nil where that cannot be
// had.
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

// exitCode is how a held process ended: its code, or 128 and the signal. Kernels before 6.15 do not
// tell (include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT).
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
