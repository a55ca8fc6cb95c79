package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// FieldError is one thing wrong with the configuration.
type FieldError struct {
	// Where is "file:line" or "--flag".
	Where string
	// Field is the path inside the document, such as "iptables.masqueradeBit".
	Field string
	// Problem says what is wrong; Hint what would be right, if that is known.
	Problem, Hint string
}

func (e FieldError) Error() string {
	s := e.Where + ": "
	if e.Field != "" {
		s += e.Field + ": "
	}
	s += e.Problem
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Errors are all things wrong with the configuration.
type Errors []FieldError

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// byPlace sorts errors by file, then line.
func (e Errors) byPlace() Errors {
	slices.SortStableFunc(e, func(a, b FieldError) int {
		fileA, lineA := splitPlace(a.Where)
		fileB, lineB := splitPlace(b.Where)
		return cmp.Or(strings.Compare(fileA, fileB), lineA-lineB)
	})
	return e
}

func splitPlace(where string) (file string, line int) {
	i := strings.LastIndexByte(where, ':')
	if i < 0 {
		return where, 0
	}
	line, _ = strconv.Atoi(where[i+1:])
	return where[:i], line
}

// sortNotes sorts notes by file, then line.
func sortNotes(notes []Note) []Note {
	slices.SortStableFunc(notes, func(a, b Note) int {
		fileA, lineA := splitPlace(a.Where)
		fileB, lineB := splitPlace(b.Where)
		return cmp.Or(strings.Compare(fileA, fileB), lineA-lineB)
	})
	return notes
}

// Note is a field that was set and is not used as it is: it has no effect here, another value is
// used, or it is unknown.
type Note struct {
	// Where is "file:line" or "--flag"; Field is its full path, the kind first; Fate is what
	// happens to the field and Why is the reason.
	Where, Field, Fate, Why string
	// Mistake: kubelet, kube-proxy and the agent accept this, but it is probably not intended.
	Mistake bool
}

func (n Note) String() string {
	return fmt.Sprintf("%s: %s %s: %s", n.Where, n.Field, n.Fate, n.Why)
}

// noEffect is the Fate of a known field without effect.
const noEffect = "has no effect"

// hintField finds what the user may have meant: a similar name here, or the same name deeper down
// or in another kind.
func hintField(path, name string, t reflect.Type) string {
	fields := map[string]reflect.Value{}
	collect(reflect.New(t).Elem(), fields)
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return fmt.Sprintf("did you mean %q?", n)
		}
	}
	kind, inside, _ := strings.Cut(path, ".")
	for _, p := range everyField() {
		if !strings.HasSuffix(p, "."+name) {
			continue
		}
		k, rest, _ := strings.Cut(p, ".")
		switch {
		case k != kind:
			return fmt.Sprintf("it is %s in %s", rest, k)
		case strings.HasPrefix(rest, inside) || inside != "":
			return fmt.Sprintf("did you mean %s? (indentation)", rest)
		}
	}
	return hintNames(name, names)
}

func hintNames(name string, known []string) string {
	if near := Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) <= 8 {
		return "known: " + strings.Join(known, ", ")
	}
	return ""
}

// Nearest is the known name most similar to the given one; "" if none is similar.
func Nearest(name string, known []string) string {
	best, near := 1+max(min(2, len(name)/2), len(name)/3), ""
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < best {
			best, near = d, k
		}
	}
	return near
}

// distance is the number of edits between two words (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 { // no field name is that long
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// everyField lists the paths of all fields of the three kinds, kind first, the shortest first.
func everyField() []string {
	var d documents
	var paths []string
	for _, kind := range []string{kindKubelet, kindProxy, kindAgent} {
		into, _, _ := d.target(kind)
		paths = append(paths, fieldPaths(kind, reflect.TypeOf(into).Elem())...)
	}
	sort.SliceStable(paths, func(i, j int) bool { return strings.Count(paths[i], ".") < strings.Count(paths[j], ".") })
	return paths
}

func fieldPaths(path string, t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	v := reflect.New(t).Elem()
	if t.Kind() != reflect.Struct || decodesItself(v) {
		return []string{path}
	}
	fields := map[string]reflect.Value{}
	collect(v, fields)
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	var paths []string
	for _, n := range names {
		if strings.Count(path, ".") == 0 && (n == "kind" || n == "apiVersion") {
			continue
		}
		paths = append(paths, fieldPaths(join(path, n), fields[n].Type())...)
	}
	return paths
}
