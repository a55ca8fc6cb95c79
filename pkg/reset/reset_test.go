package reset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// fakeMachine is a machine in memory, but for its files. It fails where broken says so.
type fakeMachine struct {
	t               *testing.T
	dir             string
	active, enabled bool
	stubborn        bool // an agent that Stop does not end
	down            bool // containerd
	noImages        bool // containerd cannot list them
	running         bool // the remover
	pods            map[types.UID]*runtime.Pod
	networks        map[string]string
	residue         map[types.UID]bool
	foreign         map[types.UID]bool
	images          map[string]bool
	rules, group    bool
	broken          map[string]bool
	calls           []string
}

func newMachine(t *testing.T) *fakeMachine {
	m := &fakeMachine{
		t: t, dir: t.TempDir(), active: true, enabled: true, rules: true, group: true,
		pods: map[types.UID]*runtime.Pod{
			"1": {
				PodRef: runtime.PodRef{UID: "1", Namespace: "default", Name: "a"}, Sandbox: &runtime.Sandbox{ID: "s1"},
				Containers: []runtime.Container{{ID: "c1", Name: "c"}},
			},
		},
		networks: map[string]string{"s1": "/netns/1", "s2": "/netns/2"}, residue: map[types.UID]bool{"1": true, "9": true, "k": true},
		foreign: map[types.UID]bool{"k": true}, images: map[string]bool{"busybox": true}, broken: map[string]bool{},
	}
	m.write("root/nodeagent/record", "root/pods/.keep", "run/pods/1/net", "run/pods/2/net", "run/pump.sock", "kubeconfig", "pki/kubelet.crt")
	m.must(os.Remove(m.path("root/pods/.keep")))
	return m
}

func (m *fakeMachine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *fakeMachine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *fakeMachine) write(names ...string) {
	for _, name := range names {
		m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
		m.must(os.WriteFile(m.path(name), nil, 0o600))
	}
}

func (m *fakeMachine) call(format string, args ...any) error {
	c := fmt.Sprintf(format, args...)
	m.calls = append(m.calls, c)
	if m.broken[c] {
		return fmt.Errorf("%s: broken", c)
	}
	return nil
}

func (m *fakeMachine) config(o Options, report func(Event)) Config {
	if report == nil {
		report = func(Event) {}
	}
	return Config{
		Options: o, Unit: "u.service", Daemon: m, Containerd: "/containerd.sock", Records: records{m}, Remover: m, Network: m,
		Pods: hostPods{m}, Pump: pump{m}, Rules: m.findRules, Cgroups: []Cgroup{group{m}}, Patience: 10 * time.Millisecond,
		Answers: func(context.Context) bool { return m.active || m.stubborn }, Now: time.Now, Report: report,
		Places: Places{
			Root: m.path("root"), Run: m.path("run"), PodLogs: m.path("logs"), ContainerLogs: m.path("links"), StatusSocket: m.path("run/status.sock"),
			CNICache: m.path("cni"), Kubeconfig: m.path("kubeconfig"), ClusterCA: m.path("ca/ca.crt"), CertDir: m.path("pki"),
		},
	}
}

func (m *fakeMachine) Running(context.Context) (active, enabled bool, err error) {
	return m.active, m.enabled, nil
}

func (m *fakeMachine) Stop(context.Context) error {
	if err := m.call("stop"); err != nil {
		return err
	}
	m.active, m.enabled = false, false
	return nil
}

func (m *fakeMachine) Run(ctx context.Context) error {
	m.running = true
	<-ctx.Done()
	return nil
}

func (m *fakeMachine) Ready(context.Context) error {
	if m.down {
		return errors.New("containerd is down")
	}
	return nil
}

func (m *fakeMachine) RemoveContainer(_ context.Context, id string) error {
	if err := m.call("container %s", id); err != nil {
		return err
	}
	for _, p := range m.pods {
		p.Containers = slices.DeleteFunc(p.Containers, func(c runtime.Container) bool { return c.ID == id })
	}
	return nil
}

func (m *fakeMachine) RemoveSandbox(_ context.Context, uid types.UID) error {
	if err := m.call("sandbox %s", uid); err != nil {
		return err
	}
	if p := m.pods[uid]; p != nil && p.Sandbox != nil {
		delete(m.networks, p.Sandbox.ID)
		p.Sandbox = nil
	}
	return os.RemoveAll(m.path("run/pods/" + string(uid)))
}

func (m *fakeMachine) RemoveImage(_ context.Context, id string) error {
	delete(m.images, id)
	return m.call("image %s", id)
}

func (m *fakeMachine) Attached(string) (map[string]string, error) { return maps.Clone(m.networks), nil }

func (m *fakeMachine) Release(_ context.Context, netns, id string) error {
	delete(m.networks, id)
	return m.call("network %s %s", id, netns)
}

type records struct{ m *fakeMachine }

func (r records) Inventory(context.Context) ([]runtime.Pod, error) {
	if r.m.down {
		return nil, errors.New("connection refused")
	}
	var pods []runtime.Pod
	for _, p := range r.m.pods {
		if p.Sandbox != nil || len(p.Containers) > 0 {
			copied := *p
			copied.Containers = slices.Clone(p.Containers)
			pods = append(pods, copied)
		}
	}
	return pods, nil
}

func (r records) Foreign(context.Context) (map[types.UID]bool, error) { return r.m.foreign, nil }

func (r records) Images(context.Context) ([]runtime.Image, error) {
	if r.m.noImages {
		return nil, errors.New("bad image")
	}
	var images []runtime.Image
	for id := range r.m.images {
		images = append(images, runtime.Image{ID: id})
	}
	return images, nil
}

type hostPods struct{ m *fakeMachine }

func (p hostPods) Residue(context.Context) ([]types.UID, error) {
	return slices.Sorted(maps.Keys(p.m.residue)), nil
}

func (p hostPods) Remove(_ context.Context, uid types.UID) error {
	if err := p.m.call("pod %s", uid); err != nil {
		return err
	}
	delete(p.m.residue, uid)
	return nil
}

type pump struct{ m *fakeMachine }

func (p pump) Stop(context.Context) (bool, error) { return true, p.m.call("pump") }

func (m *fakeMachine) findRules(context.Context) ([]Rules, error) {
	if !m.rules {
		return nil, nil
	}
	return []Rules{{"Service rules (IPv4)", func(context.Context) error {
		if err := m.call("rules"); err != nil {
			return err
		}
		m.rules = false
		return nil
	}}}, nil
}

type group struct{ m *fakeMachine }

func (group) String() string { return "/kubepods" }
func (g group) Exists() bool { return g.m.group }
func (g group) Remove(_ context.Context, keep map[types.UID]bool) (bool, error) {
	if keep != nil && !keep["k"] {
		g.m.t.Errorf("the cgroup of a kubelet's pod is to be removed: %v", keep)
	}
	g.m.group = false
	return true, g.m.call("cgroup")
}

// files are those that are left.
func (m *fakeMachine) files() []string {
	var names []string
	m.must(filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != m.dir {
			names = append(names, strings.TrimPrefix(path, m.dir+"/"))
		}
		return err
	}))
	return names
}

func (m *fakeMachine) reset(o Options) (did bool, lines []string, err error) {
	m.t.Helper()
	r, err := New(m.config(o, func(e Event) { lines = append(lines, fmt.Sprintf("%s: %s", e.Step.Action, e.State)) }))
	m.must(err)
	did, err = r.Run(m.t.Context())
	return did, lines, err
}

func (m *fakeMachine) plan(o Options) []Step {
	m.t.Helper()
	r, err := New(m.config(o, nil))
	m.must(err)
	steps, err := r.Plan(m.t.Context())
	m.must(err)
	return steps
}

// TestReset: everything goes, in order; what is a kubelet's stays; a second time there is nothing.
func TestReset(t *testing.T) {
	m := newMachine(t)
	did, _, err := m.reset(Options{Images: true})
	if err != nil || !did {
		t.Fatalf("did %v, error %v", did, err)
	}
	want := []string{
		"stop", "container c1", "sandbox 1", "network s2 /netns/2", "sandbox 2", "pod 1", "pod 9", "pump", "image busybox", "rules", "cgroup",
	}
	if !slices.Equal(m.calls, want) {
		t.Errorf("calls\n%q, want\n%q", m.calls, want)
	}
	if left := m.files(); len(left) > 0 || !m.residue["k"] {
		t.Errorf("left are files %q, pods %v", left, m.residue)
	}
	m.calls = nil
	if did, lines, err := m.reset(Options{}); did || err != nil || len(lines) > 0 || len(m.calls) > 0 {
		t.Errorf("a second time: did %v, lines %q, calls %q, error %v", did, lines, m.calls, err)
	}
}

// TestDryRun: a plan changes nothing, starts no remover, and names what Run then does.
func TestDryRun(t *testing.T) {
	m := newMachine(t)
	before := m.files()
	steps := m.plan(Options{Images: true})
	if after := m.files(); len(m.calls) > 0 || m.running || !slices.Equal(before, after) || !m.active {
		t.Fatalf("a plan called %q and left %q of %q", m.calls, after, before)
	}
	_, lines, err := m.reset(Options{Images: true})
	if err != nil {
		t.Fatal(err)
	}
	var planned []string
	for _, s := range steps {
		planned = append(planned, fmt.Sprintf("%s: %s", s.Action, Done))
	}
	if !slices.Equal(planned, lines) {
		t.Errorf("planned\n%q, done\n%q", planned, lines)
	}
}

// TestFailures: whatever fails, the rest that may be done is done, the error is told, and the next
// reset does what was left.
func TestFailures(t *testing.T) {
	for _, broken := range []string{"container c1", "sandbox 1", "network s2 /netns/2", "pod 9", "pump", "image busybox", "rules", "cgroup"} {
		t.Run(broken, func(t *testing.T) {
			m := newMachine(t)
			m.broken[broken] = true
			did, lines, err := m.reset(Options{Images: true})
			if err == nil || !strings.Contains(err.Error(), broken) || !did {
				t.Fatalf("did %v, error %v", did, err)
			}
			if m.rules && broken != "rules" {
				t.Errorf("the Service rules stay: %q", lines)
			}
			pods := slices.Contains([]string{"container c1", "sandbox 1", "network s2 /netns/2", "pod 9", "pump"}, broken)
			if records := exists(m.path("root/nodeagent/record")); records != pods {
				t.Errorf("records there: %v, want %v: %q", records, pods, lines)
			}
			if kept := slices.Contains(lines, "remove folder: kept"); kept != pods {
				t.Errorf("told to be kept: %v, want %v: %q", kept, pods, lines)
			}
			m.broken, m.group = map[string]bool{}, true
			if _, lines, err := m.reset(Options{Images: true}); err != nil || len(m.files()) > 0 {
				t.Errorf("the next time: %v, %q, left %q", err, lines, m.files())
			}
		})
	}
}

// TestContainerdIsDown: rules go, records stay, and the error has the remedy; on a machine without
// a trace of pods nobody asks containerd.
func TestContainerdIsDown(t *testing.T) {
	m := newMachine(t)
	m.down = true
	_, lines, err := m.reset(Options{})
	if err == nil || !strings.Contains(err.Error(), "systemctl start containerd") || m.rules || !exists(m.path("root/nodeagent/record")) {
		t.Errorf("error %v, rules there %v, %q", err, m.rules, lines)
	}
	m = newMachine(t)
	m.down = true
	m.must(os.RemoveAll(m.path("root")))
	m.must(os.RemoveAll(m.path("run")))
	if _, _, err := m.reset(Options{}); err != nil || len(m.files()) > 0 {
		t.Errorf("without a trace of pods: %v, left %q", err, m.files())
	}
}

// TestContainerdComes: one that does not answer at first is waited for, and asked for its pods
// then.
func TestContainerdComes(t *testing.T) {
	m := newMachine(t)
	m.active, m.enabled, m.down = false, false, true
	c := m.config(Options{}, nil)
	c.Patience = time.Minute
	c.Remover = lateRemover{m}
	r, err := New(c)
	m.must(err)
	if _, err := r.Run(t.Context()); err != nil || len(m.files()) > 0 || !slices.Contains(m.calls, "container c1") {
		t.Errorf("error %v, calls %q, left %q", err, m.calls, m.files())
	}
}

// lateRemover has containerd come once somebody waits for it.
type lateRemover struct{ *fakeMachine }

func (l lateRemover) Ready(ctx context.Context) error {
	l.down = false
	return l.fakeMachine.Ready(ctx)
}

// TestAnAgentThatRunsOn ends the reset: it would start the pods again.
func TestAnAgentThatRunsOn(t *testing.T) {
	m := newMachine(t)
	m.stubborn = true
	before := m.files()
	if _, _, err := m.reset(Options{}); err == nil || !strings.Contains(err.Error(), "still runs") || !slices.Equal(m.calls, []string{"stop"}) || !slices.Equal(before, m.files()) {
		t.Errorf("error %v, calls %q", err, m.calls)
	}
}

// TestRulesThatCannotBeLookedFor are an error, and keep nothing else from being removed.
func TestRulesThatCannotBeLookedFor(t *testing.T) {
	m := newMachine(t)
	c := m.config(Options{}, nil)
	c.Rules = func(ctx context.Context) ([]Rules, error) {
		found, _ := m.findRules(ctx)
		return found, errors.New("no netlink")
	}
	r, err := New(c)
	m.must(err)
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no netlink") || m.rules || len(m.files()) > 0 {
		t.Errorf("error %v, rules there %v, left %q", err, m.rules, m.files())
	}
}

// TestContainerdAnswersInPart: one that is ready but does not answer a question is not asked for
// ever.
func TestContainerdAnswersInPart(t *testing.T) {
	m := newMachine(t)
	m.noImages = true
	_, lines, err := m.reset(Options{Images: true})
	if err == nil || !strings.Contains(err.Error(), "bad image") || m.rules || !exists(m.path("root/nodeagent/record")) {
		t.Errorf("error %v, rules there %v, %q", err, m.rules, lines)
	}
}

// TestRulesThatAreFoundLater: what only the second look finds is removed as well.
func TestRulesThatAreFoundLater(t *testing.T) {
	m := newMachine(t)
	c := m.config(Options{}, nil)
	looks := 0
	c.Rules = func(ctx context.Context) ([]Rules, error) {
		if looks++; looks <= 2 { // before and after the daemon is stopped
			return nil, errors.New("the lock is held")
		}
		return m.findRules(ctx)
	}
	r, err := New(c)
	m.must(err)
	if _, err := r.Run(t.Context()); err != nil || m.rules {
		t.Errorf("error %v, rules there %v", err, m.rules)
	}
}
