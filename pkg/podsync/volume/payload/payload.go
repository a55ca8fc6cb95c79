// Package payload is PURE: which files ConfigMaps, Secrets and downward API items become in a
// volume. It reads API objects and fills a set of files; it writes nothing to disk.
package payload

import (
	"fmt"
	"io/fs"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/fieldref"
)

// Source says which keys of an object become which files.
type Source struct {
	Kind     string             // of the object, for errors: "configmap", "secret"
	Items    []corev1.KeyToPath // none: every key, under its own name
	Mode     int32              // of files whose item sets none
	Optional bool               // a missing key is left out
}

// ConfigMap are the keys of a ConfigMap, from data and binaryData.
func ConfigMap(c *corev1.ConfigMap) map[string][]byte {
	data := make(map[string][]byte, len(c.Data)+len(c.BinaryData))
	for key, value := range c.Data {
		data[key] = []byte(value)
	}
	for key, value := range c.BinaryData {
		data[key] = value
	}
	return data
}

// Keys are the files of an object's keys.
func Keys(data map[string][]byte, s Source) (filetree.Files, error) {
	files := filetree.Files{}
	if len(s.Items) == 0 {
		for key, value := range data {
			if err := files.Put(key, filetree.File{Data: value, Mode: fs.FileMode(s.Mode)}); err != nil {
				return nil, err
			}
		}
		return files, nil
	}
	for _, item := range s.Items {
		value, ok := data[item.Key]
		if !ok {
			if s.Optional {
				continue
			}
			return nil, fmt.Errorf("%s references non-existent key: %s", s.Kind, item.Key)
		}
		if err := files.Put(item.Path, filetree.File{Data: value, Mode: mode(item.Mode, s.Mode)}); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Downward are the files of downward API items. allocatable is what the node can give, for limits
// that a container does not set.
func Downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, defaultMode int32, allocatable corev1.ResourceList) (filetree.Files, error) {
	files := filetree.Files{}
	for _, item := range items {
		value, err := downward(pod, item, allocatable)
		if err != nil {
			return nil, fmt.Errorf("reading downward API file %q: %w", item.Path, err)
		}
		if err := files.Put(item.Path, filetree.File{Data: []byte(value), Mode: mode(item.Mode, defaultMode)}); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func downward(pod *corev1.Pod, item corev1.DownwardAPIVolumeFile, allocatable corev1.ResourceList) (string, error) {
	if item.FieldRef != nil {
		return fieldref.Field(pod, item.FieldRef.FieldPath, fieldref.Addresses{})
	}
	if item.ResourceFieldRef != nil {
		return fieldref.Resource(pod, "", item.ResourceFieldRef, allocatable)
	}
	return "", fmt.Errorf("it names neither a field nor a resource")
}

func mode(item *int32, otherwise int32) fs.FileMode {
	if item != nil {
		return fs.FileMode(*item)
	}
	return fs.FileMode(otherwise)
}
