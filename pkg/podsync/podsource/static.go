package podsource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// StaticConfig of a Static source.
type StaticConfig struct {
	// Dir is the folder of manifests; "": none, and old mirror pods are deleted.
	Dir      string
	NodeName string
	// Client writes mirror pods; nil: none are written.
	Client kubernetes.Interface
	// Interval is how often the folder is read when nothing signals a change; default 20 s.
	Interval time.Duration
	Now      func() time.Time
	Log      *slog.Logger
}

// Static is the source of the pods that are defined on this node by manifests in a folder. It needs
// no API server. A file that can no longer be read keeps its last good pods while it exists, so
// that a half-saved manifest ends no pod.
type Static struct {
	config StaticConfig
	synced atomic.Bool
	wake   chan struct{} // holds one item when mirrors may have to change

	mu      sync.Mutex
	emit    func(podspec.Update) // nil before Run
	files   map[string]file
	pods    map[types.UID]*corev1.Pod
	leaving map[types.UID]leaver
	mirrors map[types.NamespacedName]*corev1.Pod
	listed  bool // mirrors has every mirror pod of the API server
}

// file is one manifest as it was last read.
type file struct {
	sum     [sha256.Size]byte
	pods    []*corev1.Pod
	problem error
}

// leaver is a pod whose manifest is gone, while its mirror may still show how it ends.
type leaver struct {
	pod   *corev1.Pod
	until time.Time // after that, Static deletes the mirror
}

// Problem is a manifest that could not be read, or only in part.
type Problem struct {
	File string
	Err  error
}

// NewStatic makes a Static source.
func NewStatic(c StaticConfig) (*Static, error) {
	if c.NodeName == "" || c.Now == nil || c.Log == nil {
		return nil, errors.New("making the static pod source: NodeName, Now and Log are required")
	}
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("making the static pod source: Dir %q must be an absolute path", c.Dir)
	}
	c.Interval = cmp.Or(c.Interval, 20*time.Second)
	return &Static{
		config: c, wake: make(chan struct{}, 1), files: make(map[string]file), pods: make(map[types.UID]*corev1.Pod),
		leaving: make(map[types.UID]leaver), mirrors: make(map[types.NamespacedName]*corev1.Pod),
	}, nil
}

// Synced reports whether the folder has been read.
func (s *Static) Synced() bool { return s.synced.Load() }

// Problems lists the manifests with problems, by name.
func (s *Static) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Problem
	for name, f := range s.files {
		if f.problem != nil {
			found = append(found, Problem{File: name, Err: f.problem})
		}
	}
	slices.SortFunc(found, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	return found
}

// Run reads the folder whenever it changes and keeps the mirror pods up to date, until ctx ends.
func (s *Static) Run(ctx context.Context, emit func(podspec.Update)) error {
	s.mu.Lock()
	s.emit = emit
	s.mu.Unlock()
	var mirroring sync.WaitGroup
	mirroring.Go(func() { s.keepMirrors(ctx) })
	defer mirroring.Wait()

	events := s.watch()
	defer events.close()
	tick := time.NewTicker(s.config.Interval)
	defer tick.Stop()
	for {
		events.add(s.config.Dir)
		s.scan()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-events.changes():
			// Files are written in several steps, which are often complete a moment later.
			if sleep.For(ctx, 50*time.Millisecond) != nil {
				return nil
			}
			events.drain()
		}
	}
}

// notifier watches the folder; without a watcher, it is only read at intervals.
type notifier struct{ *fsnotify.Watcher }

func (s *Static) watch() notifier {
	if s.config.Dir == "" {
		return notifier{}
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.config.Log.Warn("Static pod folder cannot be watched, and is read at intervals instead", "folder", s.config.Dir, "interval", s.config.Interval, "err", err)
		return notifier{}
	}
	return notifier{w}
}

// add watches the folder, which may have been created since the last call.
func (n notifier) add(dir string) {
	if n.Watcher != nil {
		_ = n.Add(dir) // the folder is read at intervals anyway
	}
}

func (n notifier) changes() <-chan fsnotify.Event {
	if n.Watcher == nil {
		return nil
	}
	return n.Events
}

func (n notifier) drain() {
	for {
		select {
		case <-n.changes():
		default:
			return
		}
	}
}

func (n notifier) close() {
	if n.Watcher != nil {
		_ = n.Close()
	}
}

// scan reads the folder and emits what changed.
func (s *Static) scan() {
	names, err := s.manifests()
	if err != nil {
		s.config.Log.Warn("Static pod folder cannot be read", "folder", s.config.Dir, "err", err)
		return // that says nothing about the pods
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	files := make(map[string]file, len(names))
	now := make(map[types.UID]*corev1.Pod)
	taken := make(map[types.NamespacedName]string)
	for _, name := range names {
		f, exists := s.read(name, s.files[name])
		if !exists {
			continue
		}
		for _, pod := range f.pods {
			full := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
			if other, double := taken[full]; double {
				f.problem = fmt.Errorf("reading the manifest: %s defines the pod %s too, and is used", other, full)
				continue
			}
			taken[full] = name
			now[pod.UID] = pod
		}
		if f.problem != nil && (s.files[name].problem == nil || s.files[name].problem.Error() != f.problem.Error()) {
			s.config.Log.Error("Static pod manifest is invalid", "file", name, "err", f.problem)
		}
		files[name] = f
	}
	s.files = files
	s.replace(now)
	s.synced.Store(true)
}

// manifests lists the folder's files but hidden ones, sorted; none if the folder does not exist.
func (s *Static) manifests() ([]string, error) {
	if s.config.Dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(s.config.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the static pod folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(s.config.Dir, e.Name()))
		}
	}
	return names, nil
}

// read reads one manifest; before is what the last read found.
func (s *Static) read(name string, before file) (f file, exists bool) {
	text, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoFile) {
		return file{}, false
	}
	if err != nil {
		before.problem = err
		return before, true
	}
	sum := sha256.Sum256(text)
	if sum == before.sum {
		return before, true
	}
	pods, warning, err := parseManifest(text)
	for _, pod := range pods {
		if err == nil {
			err = identify(pod, s.config.NodeName, name, s.config.Now().Format(time.RFC3339Nano))
		}
	}
	if err != nil {
		return file{sum: sum, pods: before.pods, problem: err}, true
	}
	return file{sum: sum, pods: pods, problem: warning}, true
}

// errNoFile is the error of a folder entry that is not a file.
var errNoFile = errors.New("it is not a regular file")

func readFile(name string) ([]byte, error) {
	text, err := hostfs.ReadLinked(name, maxManifest)
	if errors.Is(err, hostfs.ErrNotRegular) {
		return nil, errNoFile
	}
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return text, nil
}

// replace makes now the pods of this source, and emits the differences. s.mu is held.
func (s *Static) replace(now map[types.UID]*corev1.Pod) {
	for uid, pod := range s.pods {
		if now[uid] == nil {
			grace := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
			s.leaving[uid] = leaver{pod: pod, until: s.config.Now().Add(grace + time.Minute)}
			s.config.Log.Info("Static pod's manifest was removed", "pod", podspec.Key(pod), "uid", uid)
			s.tell(pod, true)
		}
	}
	before := s.pods
	s.pods = now
	for uid, pod := range now {
		if before[uid] == nil {
			delete(s.leaving, uid)
			s.config.Log.Info("Static pod's manifest was read", "pod", podspec.Key(pod), "uid", uid)
			s.tell(pod, false)
		}
	}
	s.poke()
}

// tell emits a pod with its mirror. s.mu is held.
func (s *Static) tell(pod *corev1.Pod, gone bool) {
	if s.emit == nil {
		return
	}
	u := podspec.Update{UID: pod.UID, Pod: pod, Gone: gone, Static: true}
	mirror := s.mirrors[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}]
	if mirror != nil && mirror.DeletionTimestamp == nil && mirror.Annotations[MirrorAnnotation] == string(pod.UID) {
		u.Mirror = mirror
	}
	s.emit(u)
}

func (s *Static) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
