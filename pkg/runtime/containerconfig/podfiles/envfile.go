package podfiles

import (
	"fmt"
	"strings"
)

// EnvFile finds one variable in an environment file (KEP-3721). Lines are NAME='value'; the value
// is literal and may contain newlines; "#" starts a comment; NAME= alone is an empty value. found
// is false if the file does not set it.
func EnvFile(text, name string) (value string, found bool, err error) {
	line := 0
	for text != "" {
		line++
		var one string
		one, text, _ = strings.Cut(text, "\n")
		one = strings.TrimLeft(one, " \t")
		if one == "" || one[0] == '#' {
			continue
		}
		key, rest, ok := strings.Cut(one, "=")
		if !ok || key == "" || strings.ContainsAny(key, " \t") {
			return "", false, fmt.Errorf("invalid environment variable format at line %d: it must be NAME='value'", line)
		}
		v := ""
		if rest != "" && !strings.ContainsAny(rest[:1], " \t") {
			var lines int
			if v, text, lines, err = quoted(rest, text, line); err != nil {
				return "", false, err
			}
			line += lines
		}
		if key == name {
			return v, true, nil
		}
	}
	return "", false, nil
}

// quoted reads a value in single quotes that begins on this line and may continue in following;
// lines is the number of following lines that it took.
func quoted(first, following string, line int) (value, rest string, lines int, err error) {
	body, ok := strings.CutPrefix(first, "'")
	if !ok {
		return "", "", 0, fmt.Errorf("invalid environment variable format at line %d: value must be enclosed in single quotes", line)
	}
	whole := body + "\n" + following
	value, after, ok := strings.Cut(whole, "'")
	if !ok {
		return "", "", 0, fmt.Errorf("invalid environment variable format starting at line %d: unclosed single quote", line)
	}
	tail, rest, _ := strings.Cut(after, "\n")
	if tail = strings.TrimLeft(tail, " \t"); tail != "" && tail[0] != '#' {
		return "", "", 0, fmt.Errorf("invalid environment variable format at line %d: unexpected content after closing quote",
			line+strings.Count(value, "\n"))
	}
	return value, rest, strings.Count(value, "\n"), nil
}
