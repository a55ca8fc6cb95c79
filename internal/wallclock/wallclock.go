// Package wallclock helps tests of what happens when somebody sets the machine's clock.
package wallclock

import (
	"time"
	"unsafe"
)

// Set returns the moment that time.Now would return after the machine's clock was set forward or
// back by whole seconds: another wall reading with the same monotonic one. The moment must have a
// monotonic reading. The time package offers no way to make such a moment, so Set changes its
// fields; the package's test fails if their layout ever changes.
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
