// Package clip is PURE: it shortens text that comes from outside, such as a program's output or an
// error that quotes it, to what a field holds. What it returns is valid UTF-8, which protobuf
// insists on.
package clip

import "strings"

// Start is the beginning of the text, at most so many bytes, without what is no UTF-8 and without a
// part of a character.
func Start(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:max(0, most)], "")
}

// End is the end of the text, likewise.
func End(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[len(text)-max(0, most):], "")
}
