// Package osthread is EDGE: it runs code that changes the namespaces of its operating-system
// thread, in such a way that no other goroutine ever runs in them.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread that no other goroutine uses, and returns when f does. f reports whether
// it has restored the thread; if not, the thread ends with f.
//
// f never runs on the process's main thread. Go cannot end that thread, only park it, and for the
// kernel the main thread stands for the process: /proc/self, and with it /proc/net, would show the
// namespaces that f has entered for as long as the process lives.
func Run(f func() (restored bool)) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			Run(f) // this goroutine holds the main thread, so the next one gets another
			runtime.UnlockOSThread()
		} else if f() {
			runtime.UnlockOSThread()
		}
		close(done)
	}()
	<-done
}
