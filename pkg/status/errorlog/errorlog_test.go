package errorlog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/status/errorlog"
)

// TestLastErrors: the newest 20 errors come first, with the attributes of their logger; records of
// lower levels pass through and are not kept.
func TestLastErrors(t *testing.T) {
	var text bytes.Buffer
	h := errorlog.New(slog.NewTextHandler(&text, nil))
	log := slog.New(h)
	log.Info("Fine")
	for i := range 25 {
		log.With("pod", "ns/p"+strconv.Itoa(i)).Error("Failed", "err", errors.New("why"))
	}
	got := h.Last()
	if len(got) != 20 || got[0].Text != "Failed pod=ns/p24 err=why" || got[19].Text != "Failed pod=ns/p5 err=why" {
		t.Errorf("kept: %+v", got)
	}
	if lines := strings.Count(text.String(), "\n"); lines != 26 {
		t.Errorf("%d lines reached the log, want 26", lines)
	}
}
