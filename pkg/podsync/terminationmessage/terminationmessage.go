// Package termination is EDGE: it reads the termination messages that containers leave: a file of
// their own, or the end of their log. It never follows what a container may have put in a file's
// place.
package terminationmessage

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/clip"
	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// The bounds of a message from a log: as in kubelet.
const (
	logLines = 80
	logBytes = 2048
)

// Reader reads messages. Its zero value is ready.
type Reader struct{}

// Message returns at most limit bytes of an exited container's message: its file; or, when that is
// empty and the policy is FallbackToLogsOnError and the container failed, the last lines of its
// log.
func (Reader) Message(_ context.Context, c runtime.Container, policy corev1.TerminationMessagePolicy, limit int) string {
	text := ""
	if c.MessagePath != "" {
		text = strings.ToValidUTF8(readTail(c.MessagePath, int64(limit)), "")
	}
	if text != "" || policy != corev1.TerminationMessageFallbackToLogsOnError || c.ExitCode == 0 || c.LogPath == "" {
		return text
	}
	return tail(c.LogPath, min(limit, logBytes))
}

// readTail reads the last bytes of a file; "" when it cannot be read.
func readTail(name string, most int64) string {
	text, err := hostfs.ReadTail(name, most)
	if err != nil {
		return ""
	}
	return string(text)
}

// tail returns the last lines of a log in CRI format, without what the format adds, of at most so
// many bytes.
func tail(name string, most int) string {
	// Each line has about 45 bytes of time, stream and tag, and may be one byte long.
	raw := readTail(name, int64(most+logLines*64)*8)
	lines := strings.Split(strings.TrimSuffix(raw, "\n"), "\n")
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-logLines):] {
		content, whole, ok := parseLine(line)
		if !ok {
			continue // the first may be cut
		}
		b.WriteString(content)
		if whole {
			b.WriteByte('\n')
		}
	}
	return clip.End(b.String(), most)
}

// parseLine splits "2016-10-06T00:17:09.669794202Z stdout F content"; a tag P says that the line
// goes on in the next.
func parseLine(line string) (content string, whole, ok bool) {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) < 4 || parts[1] != "stdout" && parts[1] != "stderr" {
		return "", false, false
	}
	tag, _, _ := strings.Cut(parts[2], ":")
	return parts[3], tag != "P", true
}
