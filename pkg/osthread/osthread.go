// Package osthread is EDGE: it runs what changes the namespaces of its operating-system thread, so
// that nothing else of the process ever runs in them.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread that no other goroutine uses meanwhile, and returns when f has returned.
// f says whether the thread is as it was; one that is not ends with f.
//
// f never runs on the process's main thread. Go cannot end that one, it only parks it, and for the
// kernel the main thread stands for the process: /proc/self, and with it /proc/net, would show the
// namespaces that f has entered until the process ends.
func Run(f func() (restored bool)) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			Run(f) // while this goroutine holds the main thread, the next one gets another
			runtime.UnlockOSThread()
		} else if f() {
			runtime.UnlockOSThread()
		}
		close(done)
	}()
	<-done
}
