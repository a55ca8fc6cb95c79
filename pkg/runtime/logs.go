package runtime

import "time"

// LogOptions choose lines of a container's log, as `kubectl logs` does. The zero value is all that
// is kept at the moment, from both streams.
type LogOptions struct {
	// Follow goes on with what is written later, until Ended reports true or the context ends.
	Follow bool
	// Ended reports that the container has ended and all its output is in the file. A follower that
	// has read everything asks once a second and after each change of the file. Nil: never.
	Ended func() bool
	// Timestamps puts the time before each line.
	Timestamps bool
	// Tail, when not nil, starts that many lines before the end. A line is the program's, in
	// however many pieces it was written.
	Tail *int64
	// Since leaves out the lines that began earlier.
	Since time.Time
	// LimitBytes, when not nil, ends after that many bytes of output.
	LimitBytes *int64
	// Stream is "stdout" or "stderr"; "": both.
	Stream string
}
