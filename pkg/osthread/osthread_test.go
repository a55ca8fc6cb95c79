package osthread

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Without the check, the scheduler picks the main thread within a few calls.
func TestNeverTheMainThread(t *testing.T) {
	for _, restored := range []bool{true, false} {
		var all sync.WaitGroup
		for range 300 {
			all.Go(func() {
				Run(func() bool {
					if unix.Gettid() == unix.Getpid() {
						t.Error("ran on the main thread")
					}
					return restored
				})
			})
		}
		all.Wait()
	}
}
