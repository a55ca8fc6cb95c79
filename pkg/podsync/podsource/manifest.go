package podsource

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// parseManifest reads a Pod or a PodList in YAML or JSON. An unknown field is a warning: the
// manifest may be newer than the agent, or the field misspelt.
func parseManifest(text []byte) (pods []*corev1.Pod, warning, err error) {
	text, err = oneDocument(text)
	if err != nil {
		return nil, nil, err
	}
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(text, &kind); err != nil {
		return nil, nil, fmt.Errorf("reading the manifest: %w", err)
	}
	var list corev1.PodList
	switch {
	case kind.APIVersion != "v1":
		return nil, nil, fmt.Errorf("reading the manifest: apiVersion is %q; it must be v1", kind.APIVersion)
	case kind.Kind == "Pod":
		list.Items = make([]corev1.Pod, 1)
		warning, err = unmarshal(text, &list.Items[0])
	case kind.Kind == "PodList":
		warning, err = unmarshal(text, &list)
	default:
		err = fmt.Errorf("reading the manifest: kind is %q; it must be Pod or PodList", kind.Kind)
	}
	for i := range list.Items {
		if err == nil {
			err = check(&list.Items[i])
		}
		pods = append(pods, &list.Items[i])
	}
	if err != nil {
		return nil, nil, err
	}
	return pods, warning, nil
}

// unmarshal reads leniently, and returns as warning what a strict reader would refuse.
func unmarshal(text []byte, into any) (warning, err error) {
	if warning = yaml.UnmarshalStrict(text, into); warning == nil {
		return nil, nil
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return fmt.Errorf("reading the manifest: %w", warning), nil
}

// oneDocument returns the one document of a YAML stream that has content.
func oneDocument(text []byte) ([]byte, error) {
	var found []byte
	for _, doc := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		if found != nil && isContent(doc) {
			return nil, errors.New("reading the manifest: it has several documents; put each pod into a file of its own")
		}
		if found == nil && isContent(doc) {
			found = doc
		}
	}
	if found == nil {
		return nil, errors.New("reading the manifest: it is empty")
	}
	return found, nil
}

// isContent reports whether a document has a line that is not a comment.
func isContent(doc []byte) bool {
	for line := range strings.Lines(string(doc)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && line != "..." {
			return true
		}
	}
	return false
}

// check refuses what cannot become a pod of this node. The API server would refuse more: then the
// mirror pod cannot be created, and the pod runs all the same.
func check(pod *corev1.Pod) error {
	switch {
	case len(validation.IsDNS1123Subdomain(pod.Name)) > 0:
		return fmt.Errorf("reading the manifest: metadata.name %q must be a DNS subdomain", pod.Name)
	case pod.Namespace != "" && len(validation.IsDNS1123Label(pod.Namespace)) > 0:
		return fmt.Errorf("reading the manifest: metadata.namespace %q must be a DNS label", pod.Namespace)
	case len(pod.Spec.Containers) == 0:
		return errors.New("reading the manifest: spec.containers must name at least one container")
	case pod.Spec.ServiceAccountName != "" || len(pod.Spec.EphemeralContainers) > 0:
		return errors.New("reading the manifest: a static pod may have neither serviceAccountName nor ephemeralContainers")
	}
	names := make(map[string]bool)
	for _, c := range podspec.Containers(pod) {
		switch {
		case len(validation.IsDNS1123Label(c.Name)) > 0:
			return fmt.Errorf("reading the manifest: container name %q must be a DNS label", c.Name)
		case names[c.Name]:
			return fmt.Errorf("reading the manifest: two containers have the name %q", c.Name)
		case c.Image == "":
			return fmt.Errorf("reading the manifest: container %q has no image", c.Name)
		}
		names[c.Name] = true
	}
	return checkVolumes(pod)
}

// checkVolumes refuses volumes of API objects: a static pod must not read secrets with the node's
// identity.
func checkVolumes(pod *corev1.Pod) error {
	names := make(map[string]bool)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case len(validation.IsDNS1123Label(v.Name)) > 0:
			return fmt.Errorf("reading the manifest: volume name %q must be a DNS label", v.Name)
		case names[v.Name]:
			return fmt.Errorf("reading the manifest: two volumes have the name %q", v.Name)
		case v.Secret != nil, v.ConfigMap != nil, v.PersistentVolumeClaim != nil:
			return fmt.Errorf("reading the manifest: volume %q: a static pod may not refer to API objects", v.Name)
		}
		names[v.Name] = true
	}
	return nil
}

// identify makes a manifest's pod a pod of this node: it sets the name, a UID, annotations, a
// toleration, and every default that the API server would set. The UID is a hash of the contents,
// so that a changed manifest is another pod.
func identify(pod *corev1.Pod, node, file, seen string) error {
	text, err := json.Marshal(pod)
	if err != nil {
		return fmt.Errorf("hashing the manifest: %w", err)
	}
	if pod.UID == "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", node, file, text))
		pod.UID = types.UID(hex.EncodeToString(sum[:16]))
	}
	pod.Name += "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = node
	annotations := map[string]string{SourceAnnotation: "file", SeenAnnotation: seen, HashAnnotation: string(pod.UID)}
	for key, value := range pod.Annotations {
		if _, own := annotations[key]; !own && key != MirrorAnnotation {
			annotations[key] = value
		}
	}
	pod.Annotations = annotations
	tolerates := func(t corev1.Toleration) bool {
		return t.Key == "" && t.Operator == corev1.TolerationOpExists && t.Effect == corev1.TaintEffectNoExecute
	}
	if !slices.ContainsFunc(pod.Spec.Tolerations, tolerates) {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute,
		})
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	Default(pod)
	return nil
}

// maxManifest is the size of the largest manifest that is read, in bytes.
const maxManifest = 10 << 20
