package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the work that aliases in a document can cause.
const maxNodes = 50_000

// walker decodes a YAML tree into a typed value, by the rules of encoding/json tags, and records
// where each field was set. Other decoders lose line numbers before they know field names.
type walker struct {
	docs   *documents
	where  func(*yaml.Node) string
	budget int
}

func (w *walker) fail(n *yaml.Node, path, hint, problem string, args ...any) {
	_, field, _ := strings.Cut(path, ".")
	w.docs.errs = append(w.docs.errs, FieldError{Where: w.where(n), Field: field, Problem: fmt.Sprintf(problem, args...), Hint: hint})
}

func (w *walker) value(n *yaml.Node, v reflect.Value, path string) {
	if w.budget--; w.budget <= 0 {
		if w.budget == 0 {
			w.fail(n, path, "", "has more than %d values behind its aliases", maxNodes)
		}
		return
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	w.docs.origin[path] = w.where(n)
	if why, ok := withoutEffect(path); ok {
		defer w.note(n, v, path, why)
	}
	if decodesItself(v) {
		w.leaf(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		w.budget++
		w.value(n, v.Elem(), path)
	case reflect.Struct:
		w.object(n, v, path)
	case reflect.Map:
		w.mapping(n, v, path)
	case reflect.Slice:
		w.sequence(n, v, path)
	default:
		w.scalar(n, v, path)
	}
}

// note records a field without effect, unless its value changes nothing: a zero where no pointer
// distinguishes it from an unset field (kubeadm writes zeros for all that it does not set), or one
// of asItIs.
func (w *walker) note(n *yaml.Node, v reflect.Value, path, why string) {
	chosen := v.Kind() == reflect.Pointer
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() == reflect.Struct && !decodesItself(v) {
		return // its fields get notes of their own
	}
	zero := v.IsZero() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0
	// a quantity of "0"
	if z, ok := v.Addr().Interface().(interface{ IsZero() bool }); ok && z.IsZero() {
		zero = true
	}
	if zero && !chosen || asItIs(path, fmt.Sprint(v.Interface())) {
		return
	}
	note := Note{Where: w.where(n), Field: path, Fate: noEffect, Why: why}
	if !slices.Contains(w.docs.notes, note) {
		w.docs.notes = append(w.docs.notes, note)
	}
}

// twice reports whether the second value of a field is used: kubelet and kube-proxy use the last
// one.
func (w *walker) twice(key *yaml.Node, path string) bool {
	if kind, _, _ := strings.Cut(path, "."); kind == kindAgent {
		w.fail(key, path, "", "is given twice")
		return false
	}
	w.docs.notes = append(w.docs.notes, Note{Where: w.where(key), Field: path, Fate: "is given twice", Why: "the last one counts", Mistake: true})
	return true
}

// unknown ignores an unknown field of KubeletConfiguration or KubeProxyConfiguration with a note:
// it may be of a newer version, and an upgrade must not stop a node. In NodeAgentConfiguration it
// is an error.
func (w *walker) unknown(key *yaml.Node, path, hint string) {
	if kind, _, _ := strings.Cut(path, "."); kind == kindAgent {
		w.fail(key, path, hint, "is not a known field")
		return
	}
	w.docs.notes = append(w.docs.notes, Note{
		Where: w.where(key), Field: path, Fate: "is not a known field and left out", Why: or(hint, "no field has a name like it"), Mistake: true,
	})
}

func decodesItself(v reflect.Value) bool {
	if !v.CanAddr() {
		return false
	}
	switch v.Addr().Interface().(type) {
	case json.Unmarshaler, encoding.TextUnmarshaler:
		return true
	}
	return false
}

func (w *walker) object(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		w.fail(n, path, "", "must be a mapping, is %s", shape(n))
		return
	}
	fields := map[string]reflect.Value{}
	collect(v, fields)
	for key, value := range w.pairs(n, path) {
		f, ok := fields[key.Value]
		if !ok {
			w.unknown(key, join(path, key.Value), hintField(path, key.Value, v.Type()))
			continue
		}
		w.value(value, f, join(path, key.Value))
	}
}

func (w *walker) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode || v.Type().Key().Kind() != reflect.String {
		w.fail(n, path, "", "must be a mapping, is %s", shape(n))
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	for key, value := range w.pairs(n, path) {
		e := reflect.New(v.Type().Elem()).Elem()
		w.value(value, e, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), e)
	}
}

// pairs yields the keys of a mapping with their values, including those of merge keys, and reports
// keys that are given twice.
func (w *walker) pairs(n *yaml.Node, path string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		seen := map[string]bool{}
		var merged []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
				merged = append(merged, value)
				continue
			}
			if seen[key.Value] && !w.twice(key, join(path, key.Value)) {
				continue
			}
			seen[key.Value] = true
			if !yield(key, value) {
				return
			}
		}
		for _, m := range merged {
			if m.Kind == yaml.AliasNode {
				m = m.Alias
			}
			if m == nil || m.Kind != yaml.MappingNode {
				w.fail(n, path, "", "merges something that is not a mapping")
				continue
			}
			for i := 0; i+1 < len(m.Content); i += 2 {
				if key := m.Content[i]; !seen[key.Value] {
					seen[key.Value] = true
					if !yield(key, m.Content[i+1]) {
						return
					}
				}
			}
		}
	}
}

func (w *walker) sequence(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		w.fail(n, path, "", "must be a list, is %s", shape(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		w.value(c, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

func (w *walker) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		w.fail(n, path, "", "must be %s, is %s", kindWord(v.Kind()), shape(n))
		return
	}
	switch v.Kind() {
	// as in sigs.k8s.io/yaml, an unquoted number is a string where one is expected
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool: // the decoder accepts yes, no, on, off of YAML 1.1
		var b bool
		if err := n.Decode(&b); err != nil {
			w.fail(n, path, "", "must be true or false, is %q", n.Value)
			return
		}
		v.SetBool(b)
	default:
		w.leaf(n, v, path)
	}
}

// leaf decodes a value through JSON, for types with an UnmarshalJSON.
func (w *walker) leaf(n *yaml.Node, v reflect.Value, path string) {
	var x any
	if err := n.Decode(&x); err != nil {
		w.fail(n, path, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	b, err := json.Marshal(x)
	if err != nil {
		w.fail(n, path, "", "%v", err)
		return
	}
	if err := json.Unmarshal(b, v.Addr().Interface()); err != nil {
		w.fail(n, path, "", "must be %s, is %s%s", typeWord(v), shape(n), plainCause(err))
	}
}

// plainCause is the cause, unless the message says it already.
func plainCause(err error) string {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return ""
	}
	return " (" + strings.TrimPrefix(err.Error(), "json: ") + ")"
}

func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return fmt.Sprintf("%q", n.Value)
	}
	return "something else"
}

func kindWord(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

func typeWord(v reflect.Value) string {
	if _, ok := v.Interface().(Switch); ok {
		return "on or off"
	}
	if v.Kind() == reflect.Struct && strings.HasSuffix(v.Type().Name(), "Duration") {
		return "a duration such as 10s"
	}
	if v.Kind() == reflect.Struct {
		return "a " + strings.ToLower(v.Type().Name())
	}
	return kindWord(v.Kind())
}

func join(path, name string) string { return path + "." + name }

// collect gathers the fields of a struct by JSON name, inlined structs flattened.
func collect(v reflect.Value, into map[string]reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			collect(v.Field(i), into)
		case name != "":
			into[name] = v.Field(i)
		}
	}
}
