package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// Source is the text of one configuration file and its name for errors.
type Source struct {
	Name string
	Data []byte
}

// Names of the three kinds, which are also the first word of every field path.
const (
	kindKubelet = "KubeletConfiguration"
	kindProxy   = "KubeProxyConfiguration"
	kindAgent   = "NodeAgentConfiguration"
)

// APIVersion is the version of NodeAgentConfiguration.
const APIVersion = "nodeagent.dev/v1alpha1"

// documents are the three kinds as given: files first, in order, then flags; later wins field by
// field, lists whole.
type documents struct {
	kubelet kubeletv1beta1.KubeletConfiguration
	proxy   kubeproxyv1alpha1.KubeProxyConfiguration
	agent   NodeAgentConfiguration

	origin map[string]string // field path → file:line or --flag
	notes  []Note
	errs   Errors
}

// target is the document of a kind and the API version that it must have.
func (d *documents) target(kind string) (any, string, bool) {
	switch kind {
	case kindKubelet:
		return &d.kubelet, "kubelet.config.k8s.io/v1beta1", true
	case kindProxy:
		return &d.proxy, "kubeproxy.config.k8s.io/v1alpha1", true
	case kindAgent:
		return &d.agent, APIVersion, true
	}
	return nil, "", false
}

// parse decodes every document of the sources. It collects all errors, so that a user can correct
// a file at once.
func parse(sources []Source) *documents {
	d := &documents{origin: map[string]string{}}
	for _, s := range sources {
		dec := yaml.NewDecoder(bytes.NewReader(s.Data))
		for {
			var n yaml.Node
			err := dec.Decode(&n)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				d.errs = append(d.errs, syntaxError(s.Name, err))
				break
			}
			d.document(s.Name, &n)
		}
	}
	return d
}

func syntaxError(file string, err error) FieldError {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
		return FieldError{Where: at(file, line), Problem: text}
	}
	return FieldError{Where: file, Problem: text}
}

func at(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }

// document decodes one YAML document of any kind.
func (d *documents) document(file string, n *yaml.Node) {
	if n.Kind == yaml.DocumentNode {
		if len(n.Content) == 0 {
			return
		}
		n = n.Content[0]
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.errs = append(d.errs, FieldError{Where: at(file, n.Line), Problem: "is not a mapping with apiVersion and kind"})
		return
	}
	version, kind := header(n)
	into, want, ok := d.target(kind)
	if !ok {
		d.errs = append(d.errs, FieldError{
			Where: at(file, n.Line), Field: "kind", Problem: fmt.Sprintf("%q is not known", kind),
			Hint: hintNames(kind, []string{kindKubelet, kindProxy, kindAgent}),
		})
		return
	}
	if version != want {
		d.errs = append(d.errs, FieldError{
			Where: at(file, n.Line), Field: "apiVersion",
			Problem: fmt.Sprintf("%q is not known for %s", version, kind), Hint: "use " + want,
		})
		return
	}
	w := walker{docs: d, where: func(n *yaml.Node) string { return at(file, n.Line) }, budget: maxNodes}
	w.value(n, reflect.ValueOf(into).Elem(), kind)
}

func header(n *yaml.Node) (version, kind string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "apiVersion":
			version = n.Content[i+1].Value
		case "kind":
			kind = n.Content[i+1].Value
		}
	}
	return version, kind
}

// assign sets one field from a flag, by the same rules as a field in a file.
func (d *documents) assign(flag, path string, value any) {
	var n yaml.Node
	if err := n.Encode(value); err != nil {
		d.errs = append(d.errs, FieldError{Where: flag, Problem: err.Error()})
		return
	}
	kind, _, _ := strings.Cut(path, ".")
	root := &n
	names := strings.Split(path, ".")[1:]
	for i := len(names) - 1; i >= 0; i-- {
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: names[i]}
		root = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, root}}
	}
	into, _, _ := d.target(kind)
	w := walker{docs: d, where: func(*yaml.Node) string { return flag }, budget: maxNodes}
	w.value(root, reflect.ValueOf(into).Elem(), kind)
}

// forget resets a field, whose whole value a flag replaces.
func (d *documents) forget(path string) {
	kind, rest, _ := strings.Cut(path, ".")
	into, _, _ := d.target(kind)
	v := reflect.ValueOf(into).Elem()
	for name := range strings.SplitSeq(rest, ".") {
		fields := map[string]reflect.Value{}
		collect(v, fields)
		v = fields[name]
	}
	v.SetZero()
	for at := range d.origin {
		if at == path || strings.HasPrefix(at, path+".") {
			delete(d.origin, at)
		}
	}
}

// where is the place that set a field, or the place of its nearest parent that was set.
func (d *documents) where(path string) string {
	for p := path; p != ""; {
		if w, ok := d.origin[p]; ok {
			return w
		}
		i := strings.LastIndexByte(p, '.')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return "default"
}

// note records a value that is not used as it is.
func (d *documents) note(path, fate, why string) {
	n := Note{Where: d.where(path), Field: path, Fate: fate, Why: why}
	if !slices.Contains(d.notes, n) {
		d.notes = append(d.notes, n)
	}
}

// bad records an invalid value.
func (d *documents) bad(path, problem string, args ...any) {
	_, field, _ := strings.Cut(path, ".")
	e := FieldError{Where: d.where(path), Field: field, Problem: fmt.Sprintf(problem, args...)}
	if !slices.Contains(d.errs, e) {
		d.errs = append(d.errs, e)
	}
}
