package clip

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		text       string
		most       int
		start, end string
	}{
		{"", 3, "", ""},
		{"abc", 3, "abc", "abc"},
		{"abcd", 3, "abc", "bcd"},
		{"aéb", 2, "a", "b"},
		{"éé", 3, "é", "é"},
		{"日本", 2, "", ""},
		{"a\xffb", 9, "ab", "ab"},
		{"abc", 0, "", ""},
		{"abc", -1, "", ""},
	} {
		if s, e := Start(c.text, c.most), End(c.text, c.most); s != c.start || e != c.end {
			t.Errorf("%q to %d bytes: %q and %q, want %q and %q", c.text, c.most, s, e, c.start, c.end)
		}
	}
}

func FuzzClip(f *testing.F) {
	f.Add("é\xff日", 3)
	f.Fuzz(func(t *testing.T, text string, most int) {
		for _, got := range []string{Start(text, most), End(text, most)} {
			if !utf8.ValidString(got) || len(got) > max(0, most) {
				t.Errorf("%q to %d bytes is %q", text, most, got)
			}
			if len(strings.ToValidUTF8(text, "")) <= most && got != strings.ToValidUTF8(text, "") {
				t.Errorf("%q fits, and became %q", text, got)
			}
		}
	})
}
