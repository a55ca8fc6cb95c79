// Package terminationmessage is EDGE: it reads the termination messages of exited containers, from
// their message file or the end of their log. A container may put a link, FIFO or device in the
// file's place: those are not followed.
package terminationmessage

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/clip"
	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
)

// The bounds of a message that is taken from a log, as in kubelet.
const (
	logLines = 80
	logBytes = 2048
)

// Reader reads messages. Its zero value is ready.
type Reader struct{}

// Message returns at most limit bytes of an exited container's message: the contents of its file.
// When that is empty, the container failed and the policy is FallbackToLogsOnError, it is the last
// lines of the log.
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

// tail returns the text of the last entries of a CRI log, at most that many bytes.
func tail(name string, most int) string {
	// Time, stream and tag take about 45 bytes of each entry, whose text may be one byte long.
	raw := readTail(name, int64(most+logLines*64)*8)
	lines := strings.Split(strings.TrimSuffix(raw, "\n"), "\n")
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-logLines):] {
		entry, err := crilog.Parse([]byte(line))
		if err != nil {
			continue // the first entry may be cut
		}
		b.Write(entry.Text)
		if !entry.Partial {
			b.WriteByte('\n')
		}
	}
	return clip.End(b.String(), most)
}
