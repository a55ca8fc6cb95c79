// Package clip is PURE: it shortens text from outside, such as a program's output or an error that
// quotes it, to the length that a field can hold. Its results are valid UTF-8, which protobuf
// requires.
package clip

import "strings"

// Start returns the beginning of the text, at most so many bytes, without invalid UTF-8 and without
// partial characters.
func Start(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:max(0, most)], "")
}

// End returns the end of the text, likewise.
func End(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[len(text)-max(0, most):], "")
}
