// Package snapshottest is PURE: it reads the input of tests of the services
// half, YAML as users write it, so that each of them can be one text file.
package snapshottest

import (
	"bytes"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Objects are what a text held.
type Objects struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// Parse reads documents of kind Service and EndpointSlice, separated by lines
// of three dashes. Unknown fields and other kinds are errors.
func Parse(text []byte) (Objects, error) {
	var out Objects
	for _, doc := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return out, fmt.Errorf("reading document: %w", err)
		}
		switch kind.Kind {
		case "Service":
			svc := &corev1.Service{}
			if err := yaml.UnmarshalStrict(doc, svc); err != nil {
				return out, fmt.Errorf("reading Service: %w", err)
			}
			out.Services = append(out.Services, svc)
		case "EndpointSlice":
			slice := &discoveryv1.EndpointSlice{}
			if err := yaml.UnmarshalStrict(doc, slice); err != nil {
				return out, fmt.Errorf("reading EndpointSlice: %w", err)
			}
			out.Slices = append(out.Slices, slice)
		default:
			return out, fmt.Errorf("reading document: kind %q is neither Service nor EndpointSlice", kind.Kind)
		}
	}
	return out, nil
}
