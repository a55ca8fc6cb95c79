package containerd

import (
	"os"
	"path/filepath"
	"time"
)

// startedFile holds the start time of a container and lies beside its pipes. It is written at once,
// since that is cheap; the label follows in the background.
const startedFile = "started"

func (r *Runtime) noteStart(id string, at time.Time) {
	dir := r.ioDir(id)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, startedFile), []byte(stamp(at)), 0o600)
	}
	if err != nil {
		r.c.Logger.Warn("Container's start time cannot be saved", "container", id, "err", err)
	}
}

func (r *Runtime) notedStart(id string) time.Time {
	b, err := os.ReadFile(filepath.Join(r.ioDir(id), startedFile))
	if err != nil {
		return time.Time{}
	}
	at, _ := time.Parse(time.RFC3339Nano, string(b))
	return at
}
