// Package volumeset is EDGE: all volumes of all pods. It picks the plugin of each volume, knows
// where volumes are, runs plugins one at a time for one volume, and takes down what a pod left by
// what the host's folders tell, also for pods that it never heard of. It alone makes and removes
// <root>/pods/<uid>/volumes.
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
	// Use is told of each pod before its volumes are read, for caches of API objects; nil for none.
	Use func(pod *corev1.Pod)
}

// Set is ready for use by many at a time.
type Set struct {
	config Config

	mu    sync.Mutex
	locks map[string]*lock // by target; an entry lives while somebody holds or waits for it
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
			return nil, fmt.Errorf("making volume set: plugin %q is there twice", p.Name())
		}
		seen[p.Name()] = true
	}
	return &Set{config: c, locks: map[string]*lock{}}, nil
}

// Mount makes the pod's volume of that name ready; one that is ready is brought up to date.
func (s *Set) Mount(ctx context.Context, pod *corev1.Pod, name string) error {
	_, err := s.Refresh(ctx, pod, name)
	return err
}

// Refresh is Mount that also says whether the contents changed.
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

// Path is where the pod's volume of that name is on the host; made ready or not.
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
	return filepath.Join(s.folder(uid), strings.ReplaceAll(p.Name(), "/", "~"), v.Name)
}

func (s *Set) folder(uid types.UID) string {
	return filepath.Join(s.config.Root, "pods", string(uid), "volumes")
}

// ReadOnly says whether the volume's contents are the node's to write alone, so that containers get
// it read-only.
func (s *Set) ReadOnly(pod *corev1.Pod, name string) bool {
	_, plugin, err := s.find(pod, name)
	return err == nil && refreshes(plugin)
}

// Refreshable are the names of the pod's volumes whose contents may change.
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

// Any says whether anything is left in the pod's volumes folder.
func (s *Set) Any(uid types.UID) (bool, error) {
	found, err := s.left(uid)
	return len(found) > 0, err
}

// Unmount takes down every volume of a pod and removes the folder.
func (s *Set) Unmount(ctx context.Context, uid types.UID) error {
	found, err := s.left(uid)
	if err != nil {
		return err
	}
	var all error
	for _, l := range found {
		all = errors.Join(all, s.unmountOne(ctx, l))
	}
	if all != nil {
		return all
	}
	return hostfs.Remove(s.folder(uid))
}

func (s *Set) unmountOne(ctx context.Context, l leftover) error {
	unlock := s.lock(l.target)
	defer unlock()
	for _, p := range s.config.Plugins {
		if strings.ReplaceAll(p.Name(), "/", "~") != l.kind {
			continue
		}
		if err := p.Unmount(ctx, l.target); err != nil {
			return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", filepath.Base(l.target), err)
		}
		return nil
	}
	return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : no plugin for kind %q", filepath.Base(l.target), l.kind)
}

type leftover struct{ kind, target string }

func (s *Set) left(uid types.UID) ([]leftover, error) {
	var found []leftover
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
			found = append(found, leftover{kind: kind.Name(), target: filepath.Join(dir, v.Name())})
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

// lock makes work on one target go one after the other.
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
