package runtime

import "time"

// LogOptions selects lines of a container's log, as `kubectl logs` does. The zero value selects
// everything that exists, from both streams.
type LogOptions struct {
	// Follow waits for new output until Ended returns true or the context ends.
	Follow bool
	// Ended reports whether the container has exited and all of its output is in the file. A
	// follower that has read everything calls it once a second and after each change of the file.
	// Nil means never.
	Ended func() bool
	// Timestamps prefixes each line with its time.
	Timestamps bool
	// Tail, if not nil, starts that many lines before the end. A line counts as one even if it was
	// written in pieces.
	Tail *int64
	// Since skips lines that began earlier.
	Since time.Time
	// LimitBytes, if not nil, stops after that many bytes of output.
	LimitBytes *int64
	// Stream is "stdout" or "stderr"; "" selects both.
	Stream string
}
