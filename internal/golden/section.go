package golden

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// Section compares text with the part of a file between the lines "<!-- begin NAME -->" and "<!--
// end NAME -->". With -update it writes text there. The rest of the file is written by hand.
func Section(t *testing.T, path, name, text string) {
	t.Helper()
	unlock := lock(t, path) // tests of several packages may rewrite parts of one file side by side
	defer unlock()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(file), "<!-- begin "+name+" -->\n")
	have, after, ends := strings.Cut(rest, "<!-- end "+name+" -->\n")
	if !begins || !ends {
		t.Fatalf("%s has no lines <!-- begin %s --> and <!-- end %s -->", path, name, name)
	}
	if have == text {
		return
	}
	if !*update {
		t.Errorf("%s, section %s differs (run with -update to accept):\n%s", path, name, changed(have, text))
		return
	}
	marked := before + "<!-- begin " + name + " -->\n" + text + "<!-- end " + name + " -->\n" + after
	if err := os.WriteFile(path, []byte(marked), 0o644); err != nil {
		t.Fatal(err)
	}
}

// changed returns the lines that were added or removed.
func changed(have, text string) string {
	var out strings.Builder
	for line := range strings.Lines(LineDiff(have, text)) {
		if !strings.HasPrefix(line, "  ") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}
