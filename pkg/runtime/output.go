package runtime

// Output is what the log pump joins of one container: the pipes that its shim keeps open, and the
// file that they end up in.
type Output struct {
	ID string
	// Stdin, Stdout and Stderr are paths of FIFOs; "" for a stream that the container has not.
	Stdin, Stdout, Stderr string
	// LogPath is the CRI-format file. LinkPath, when not "", is made a link to it.
	LogPath, LinkPath string
	// StdinOnce closes the container's stdin when the first attached client's ends.
	StdinOnce bool
	// Sealed says that the task runs already: the end of the pipes is the end of the container's
	// output. Until then the pump holds a write end, so that it does not take a pipe nobody has
	// opened yet for one that has ended.
	Sealed bool
}
