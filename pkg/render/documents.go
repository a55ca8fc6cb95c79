// Package render is WIRING: what the agent would do for objects in a file, without a cluster, a
// runtime or a kernel. It is a second, small composition root: it joins the pure parts of both
// halves, and the parts that gather a container's configuration, over a file instead of the API. It
// reads the file and what the caller hands it, writes managed files of pods into a scratch folder
// of the caller's, and starts nothing.
package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// Objects are what files hold, in their order. Namespaced objects have a namespace. The zero value
// is empty and ready.
type Objects struct {
	Pods       []*corev1.Pod
	ConfigMaps []*corev1.ConfigMap
	Secrets    []*corev1.Secret
	Services   []*corev1.Service
	Slices     []*discoveryv1.EndpointSlice
	Nodes      []*corev1.Node
	// Ignored are notes on objects that nothing here can be rendered from.
	Ignored []string

	places map[metav1.Object]place
}

// place is where an object stands.
type place struct {
	file           string
	document, line int // from 1
}

func (p place) String() string { return fmt.Sprintf("%s:%d (document %d)", p.file, p.line, p.document) }

// Where says where an object of the file stands: "file:line (document n)".
func (o *Objects) Where(object metav1.Object) string { return o.places[object].String() }

// Read adds the YAML or JSON documents of a file. Lists, as kubectl writes them, are taken apart.
// name is for errors, which are about one document each, joined: they name its line, and the field
// if there is one.
func (o *Objects) Read(name string, text []byte) error {
	if o.places == nil {
		o.places = map[metav1.Object]place{}
	}
	var all error
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for document := 1; ; document++ {
		var n yaml.Node
		err := decoder.Decode(&n)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			return errors.Join(all, fmt.Errorf("reading %s (document %d): %w", name, document, err))
		}
		if len(n.Content) > 0 && n.Content[0].ShortTag() != "!!null" {
			all = errors.Join(all, o.node(n.Content[0], place{name, document, n.Content[0].Line}))
		}
	}
}

// node decodes one object, or each of a list.
func (o *Objects) node(n *yaml.Node, at place) error {
	version, kind := scalar(n, "apiVersion"), scalar(n, "kind")
	if n.Kind != yaml.MappingNode || version == "" || kind == "" {
		return fmt.Errorf("reading %s: it is not an object with apiVersion and kind", at)
	}
	if items := child(n, "items"); strings.HasSuffix(kind, "List") && items != nil {
		var all error
		for _, item := range items.Content {
			all = errors.Join(all, o.node(item, place{at.file, at.document, item.Line}))
		}
		return all
	}
	object := o.add(version, kind)
	if object == nil {
		o.Ignored = append(o.Ignored, fmt.Sprintf("%s: %s %s is left out: pods, their ConfigMaps, Secrets and Services, "+
			"EndpointSlices and Nodes are rendered", at, kind, scalar(child(n, "metadata"), "name")))
		return nil
	}
	if err := decode(n, object, at); err != nil {
		return err
	}
	if object.GetName() == "" {
		return fmt.Errorf("reading %s: %s has no metadata.name", at, kind)
	}
	if _, global := object.(*corev1.Node); !global && object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	o.places[object] = at
	return nil
}

// add makes room for an object of a kind; nil if the kind is not one of those that are rendered.
func (o *Objects) add(version, kind string) metav1.Object {
	switch version + " " + kind {
	case "v1 Pod":
		return grow(&o.Pods)
	case "v1 ConfigMap":
		return grow(&o.ConfigMaps)
	case "v1 Secret":
		return grow(&o.Secrets)
	case "v1 Service":
		return grow(&o.Services)
	case "discovery.k8s.io/v1 EndpointSlice":
		return grow(&o.Slices)
	case "v1 Node":
		return grow(&o.Nodes)
	}
	return nil
}

func grow[T any](list *[]*T) *T {
	item := new(T)
	*list = append(*list, item)
	return item
}

// decode is strict: a field that does not exist is a mistake that rendering is there to find.
func decode(n *yaml.Node, into metav1.Object, at place) error {
	text, err := yaml.Marshal(n)
	if err != nil {
		return fmt.Errorf("reading %s: %w", at, err)
	}
	text, err = kyaml.YAMLToJSONStrict(text)
	if err != nil {
		return fmt.Errorf("reading %s: %w", at, err)
	}
	strict, err := kjson.UnmarshalStrict(text, into)
	if err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("reading %s: %s: %s cannot be read as %s", at.of(find(n, wrong.Field)), wrong.Field, wrong.Value, wrong.Type)
		}
		return fmt.Errorf("reading %s: %w", at, err)
	}
	var all error
	for _, s := range strict {
		var field kjson.FieldError
		if errors.As(s, &field) {
			all = errors.Join(all, fmt.Errorf("reading %s: %w", at.of(find(n, field.FieldPath())), s))
			continue
		}
		all = errors.Join(all, fmt.Errorf("reading %s: %w", at, s))
	}
	return all
}

// of is the place of the only node found; several leave the object's own.
func (p place) of(found []*yaml.Node) place {
	if len(found) == 1 {
		p.line = found[0].Line
	}
	return p
}

// steps of a field path: names, and indices of lists.
var steps = regexp.MustCompile(`[^.\[\]]+`)

// find returns the nodes behind a field path such as spec.containers[0].image. An index that the
// path leaves out stands for all.
func find(n *yaml.Node, path string) []*yaml.Node {
	found := []*yaml.Node{n}
	for _, step := range steps.FindAllString(path, -1) {
		var next []*yaml.Node
		for _, f := range found {
			if f.Kind != yaml.SequenceNode {
				next = append(next, child(f, step))
				continue
			}
			for i, item := range f.Content {
				if step == fmt.Sprint(i) {
					next = append(next, item)
				} else if !isIndex(step) {
					next = append(next, child(item, step))
				}
			}
		}
		found = slices.DeleteFunc(next, func(n *yaml.Node) bool { return n == nil })
	}
	return found
}

func isIndex(step string) bool { return strings.Trim(step, "0123456789") == "" }

// child is the value of a mapping's key; nil without one.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node, key string) string {
	if c := child(n, key); c != nil {
		return c.Value
	}
	return ""
}
