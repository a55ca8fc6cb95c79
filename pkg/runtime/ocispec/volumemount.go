package ocispec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// SubPath expands subPathExpr, in which every name must be known (unlike in a command), and refuses
// paths that lead out of the volume.
func SubPath(m *corev1.VolumeMount, env []string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var missing []string
		lookup := Lookup(env)
		sub = Expand(m.SubPathExpr, func(name string) (string, bool) {
			value, ok := lookup(name)
			if !ok {
				missing = append(missing, name)
			}
			return value, ok
		})
		if len(missing) > 0 {
			return "", fmt.Errorf("missing value for %q in subPathExpr %q of volumeMount %q", missing[0], m.SubPathExpr, m.Name)
		}
	}
	if path.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	return sub, nil
}

// RecursiveReadOnly decides whether a volume is mounted recursively read-only (KEP-3857); supported
// says whether the kernel can.
func RecursiveReadOnly(m *corev1.VolumeMount, supported bool) (bool, error) {
	if m.RecursiveReadOnly == nil {
		return false, nil
	}
	switch mode := *m.RecursiveReadOnly; mode {
	case corev1.RecursiveReadOnlyDisabled:
		return false, nil
	case corev1.RecursiveReadOnlyIfPossible:
		return m.ReadOnly && supported, nil
	case corev1.RecursiveReadOnlyEnabled:
		if !m.ReadOnly {
			return false, fmt.Errorf("volumeMount %q: recursive read-only needs readOnly: true", m.Name)
		}
		if !supported {
			return false, fmt.Errorf("volumeMount %q: this node's kernel cannot mount recursively read-only (Linux 5.12 can)", m.Name)
		}
		return true, nil
	default:
		return false, fmt.Errorf("volumeMount %q: unknown mode %q", m.Name, mode)
	}
}
