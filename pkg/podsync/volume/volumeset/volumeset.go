// Package volumeset is EDGE: all volumes of all pods. It picks the plugin of each volume, decides
// where volumes are on the host, and calls plugins for one volume at a time. It finds the volumes
// to unmount in the host's folders, so that it can also unmount those of unknown pods. It alone
// creates and removes <root>/pods/<uid>/volumes.
package volumeset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
)

// Config is what a Set is made from.
type Config struct {
	Root    string // kubelet's root folder, absolute
	Plugins []volume.Plugin
	// Allocatable is what the node can give; nil: not known.
	Allocatable func() corev1.ResourceList
	// Use is called with each pod before its volumes are mounted, for caches of API objects; nil:
	// nothing is called.
	Use func(pod *corev1.Pod)
}

// Set is for concurrent use.
type Set struct {
	config Config

	mu    sync.Mutex
	locks map[string]*lock // by target; an entry exists while it is held or waited for
}

type lock struct {
	sync.Mutex
	users int
}

// New checks the configuration.
func New(c Config) (*Set, error) {
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("making volume set: Root %q must be an absolute path", c.Root)
	}
	seen := map[string]bool{}
	for _, p := range c.Plugins {
		if seen[p.Name()] {
			return nil, fmt.Errorf("making volume set: two plugins have the name %q", p.Name())
		}
		seen[p.Name()] = true
	}
	return &Set{config: c, locks: map[string]*lock{}}, nil
}

// Mount makes a volume of the pod ready, or brings it up to date.
func (s *Set) Mount(ctx context.Context, pod *corev1.Pod, name string) error {
	_, err := s.Refresh(ctx, pod, name)
	return err
}

// Refresh is Mount, and reports whether the contents changed.
func (s *Set) Refresh(ctx context.Context, pod *corev1.Pod, name string) (changed bool, err error) {
	v, plugin, err := s.find(pod, name)
	if err != nil {
		return false, err
	}
	if s.config.Use != nil {
		s.config.Use(pod)
	}
	target := s.path(pod.UID, plugin, v)
	unlock := s.lock(target)
	defer unlock()
	if _, elsewhere := plugin.(volume.Pather); !elsewhere {
		if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
			return false, fmt.Errorf("making the pod's volumes folder: %w", err)
		}
	}
	r := volume.Request{Pod: pod, Volume: v, Target: target, FSGroup: fsGroup(pod)}
	if s.config.Allocatable != nil {
		r.Allocatable = s.config.Allocatable()
	}
	changed, err = plugin.Mount(ctx, r)
	if err != nil {
		return changed, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", name, err)
	}
	return changed, nil
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// Path is where a volume of the pod is on the host, whether mounted or not.
func (s *Set) Path(pod *corev1.Pod, name string) (string, error) {
	v, plugin, err := s.find(pod, name)
	if err != nil {
		return "", err
	}
	return s.path(pod.UID, plugin, v), nil
}

func (s *Set) path(uid types.UID, p volume.Plugin, v *corev1.Volume) string {
	if pather, ok := p.(volume.Pather); ok {
		return pather.Path(v)
	}
	return filepath.Join(s.folder(uid), folderName(p), v.Name)
}

func (s *Set) folder(uid types.UID) string {
	return filepath.Join(s.config.Root, "pods", string(uid), "volumes")
}

// ReadOnly reports whether only the node writes to the volume, so that containers get it read-only.
func (s *Set) ReadOnly(pod *corev1.Pod, name string) bool {
	_, plugin, err := s.find(pod, name)
	return err == nil && refreshes(plugin)
}

// Refreshable are the names of the pod's volumes that a later Mount may change.
func (s *Set) Refreshable(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		if p := s.plugin(&pod.Spec.Volumes[i]); p != nil && refreshes(p) {
			names = append(names, pod.Spec.Volumes[i].Name)
		}
	}
	return names
}

func refreshes(p volume.Plugin) bool {
	r, ok := p.(volume.Refresher)
	return ok && r.Refreshes()
}

// Any reports whether the host has any volume of the pod.
func (s *Set) Any(uid types.UID) (bool, error) {
	found, err := s.found(uid)
	return len(found) > 0, err
}

// Unmount unmounts every volume of a pod that the host has, and removes their folder.
func (s *Set) Unmount(ctx context.Context, uid types.UID) error {
	found, err := s.found(uid)
	if err != nil {
		return err
	}
	var all error
	for _, v := range found {
		all = errors.Join(all, s.unmountOne(ctx, v))
	}
	if all != nil {
		return all
	}
	return hostfs.Remove(s.folder(uid))
}

func (s *Set) unmountOne(ctx context.Context, v volumeOnHost) error {
	unlock := s.lock(v.target)
	defer unlock()
	for _, p := range s.config.Plugins {
		if folderName(p) != v.kind {
			continue
		}
		if err := p.Unmount(ctx, v.target); err != nil {
			return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", filepath.Base(v.target), err)
		}
		return nil
	}
	return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : no plugin for kind %q", filepath.Base(v.target), v.kind)
}

// volumeOnHost is a volume by its folder on the host. kind is the plugin's name as the folder has
// it.
type volumeOnHost struct{ kind, target string }

func (s *Set) found(uid types.UID) ([]volumeOnHost, error) {
	var found []volumeOnHost
	kinds, err := os.ReadDir(s.folder(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the pod's volumes: %w", err)
	}
	for _, kind := range kinds {
		dir := filepath.Join(s.folder(uid), kind.Name())
		volumes, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("listing the pod's volumes: %w", err)
		}
		for _, v := range volumes {
			found = append(found, volumeOnHost{kind: kind.Name(), target: filepath.Join(dir, v.Name())})
		}
	}
	return found, nil
}

func (s *Set) find(pod *corev1.Pod, name string) (*corev1.Volume, volume.Plugin, error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name != name {
			continue
		}
		if p := s.plugin(v); p != nil {
			return v, p, nil
		}
		return nil, nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : volume kind %q is not supported yet", name, kind(v))
	}
	return nil, nil, fmt.Errorf("cannot find volume %q in the pod's spec", name)
}

func (s *Set) plugin(v *corev1.Volume) volume.Plugin {
	for _, p := range s.config.Plugins {
		if p.Handles(v) {
			return p
		}
	}
	return nil
}

// folderName is a plugin's name in paths on the host.
func folderName(p volume.Plugin) string { return strings.ReplaceAll(p.Name(), "/", "~") }

// kind is the name of the one field of the volume's source that is set, as in a manifest.
func kind(v *corev1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "none"
}

// lock serializes work on one target.
func (s *Set) lock(target string) (unlock func()) {
	s.mu.Lock()
	l := s.locks[target]
	if l == nil {
		l = &lock{}
		s.locks[target] = l
	}
	l.users++
	s.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, target)
		}
	}
}
