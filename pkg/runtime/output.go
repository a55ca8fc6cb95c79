package runtime

// Output describes a container's streams to the log pump: the pipes that its shim keeps open, and
// the log file that their content goes to.
type Output struct {
	ID string
	// Stdin, Stdout and Stderr are paths of FIFOs; "" for a stream that the container lacks.
	Stdin, Stdout, Stderr string
	// LogPath is the CRI-format file. LinkPath, if not "", becomes a link to it.
	LogPath, LinkPath string
	// StdinOnce closes the container's stdin when the stdin of its first client ends.
	StdinOnce bool
	// Sealed means that the task runs, so that its output ends when its pipes do. Until then the
	// pump holds a write end, because a pipe that nobody has opened yet looks like one that has
	// ended.
	Sealed bool
}
