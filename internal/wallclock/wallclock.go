// Package wallclock is for tests of what happens when somebody sets the machine's clock.
package wallclock

import (
	"time"
	"unsafe"
)

// Set returns a moment as time.Now would after the machine's clock was set forward or back by whole
// seconds: with another wall reading and the same monotonic one. The moment must have a monotonic
// reading. The time package cannot make such a moment, so that this reaches into its layout; the
// package's test fails should that ever change.
func Set(moment time.Time, by time.Duration) time.Time {
	layout := (*struct {
		wall uint64 // a flag, 33 bits of seconds since 1885, 30 bits of nanoseconds
		ext  int64  // the monotonic reading
		loc  *time.Location
	})(unsafe.Pointer(&moment))
	if layout.wall>>63 == 0 {
		panic("wallclock: the moment has no monotonic reading")
	}
	layout.wall += uint64(by/time.Second) << 30
	return moment
}
