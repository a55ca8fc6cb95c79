// Package payload is PURE: which files ConfigMaps, Secrets and downward API items become in a
// volume. It reads API objects and gives a set of files; it writes nothing.
package payload

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/fieldref"
)

// File is one file of a volume.
type File struct {
	Data  []byte
	Mode  fs.FileMode // permission bits
	Owner *int64      // nil: root
}

// Files are a volume's, by path relative to it.
type Files map[string]File

// Source says which keys of an object become which files.
type Source struct {
	Items    []corev1.KeyToPath // none: every key, under its own name
	Mode     int32              // of files whose item sets none
	Optional bool               // a missing key is left out
	What     string             // for errors: "configmap", "secret"
}

// ConfigMap adds the files of a ConfigMap's data and binaryData.
func (f Files) ConfigMap(c *corev1.ConfigMap, s Source) error {
	data := make(map[string][]byte, len(c.Data)+len(c.BinaryData))
	for key, value := range c.Data {
		data[key] = []byte(value)
	}
	for key, value := range c.BinaryData {
		data[key] = value
	}
	return f.keys(data, s)
}

// Secret adds the files of a Secret.
func (f Files) Secret(c *corev1.Secret, s Source) error { return f.keys(c.Data, s) }

func (f Files) keys(data map[string][]byte, s Source) error {
	if len(s.Items) == 0 {
		for key, value := range data {
			if err := f.Put(key, File{Data: value, Mode: fs.FileMode(s.Mode)}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range s.Items {
		value, ok := data[item.Key]
		if !ok {
			if s.Optional {
				continue
			}
			return fmt.Errorf("%s references non-existent key: %s", s.What, item.Key)
		}
		if err := f.Put(item.Path, File{Data: value, Mode: mode(item.Mode, s.Mode)}); err != nil {
			return err
		}
	}
	return nil
}

// Downward adds the files of downward API items.
func (f Files) Downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, defaultMode int32, allocatable corev1.ResourceList) error {
	for _, item := range items {
		value, err := downward(pod, item, allocatable)
		if err != nil {
			return fmt.Errorf("reading downward API file %q: %w", item.Path, err)
		}
		if err := f.Put(item.Path, File{Data: []byte(value), Mode: mode(item.Mode, defaultMode)}); err != nil {
			return err
		}
	}
	return nil
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

// Put adds one file, if its path stays in the volume.
func (f Files) Put(name string, file File) error {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "..") || clean == "." {
		return fmt.Errorf("path %q is not allowed in a volume: it must be relative and may not start with \"..\"", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return fmt.Errorf("path %q is not allowed in a volume: it has \"..\"", name)
		}
	}
	f[clean] = file
	return nil
}
