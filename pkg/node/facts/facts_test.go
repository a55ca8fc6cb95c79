package facts

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/measure"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// root makes a machine of the given files.
func root(t *testing.T, files map[string]string) Reader {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Reader{Root: dir}
}

func machine(available string) map[string]string {
	return map[string]string{
		"proc/sys/kernel/random/boot_id":                        "boot\n",
		"proc/sys/kernel/osrelease":                             "6.1.0\n",
		"proc/sys/kernel/pid_max":                               "1000\n",
		"proc/loadavg":                                          "0.1 0.2 0.3 1/100 77\n",
		"proc/meminfo":                                          "MemTotal: 1048576 kB\nMemAvailable: " + available + " kB\nSwapTotal: 0 kB\n",
		"sys/devices/system/cpu/online":                         "0-2,5\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "3\n",
		"etc/machine-id":                                        "m\n",
		"etc/os-release":                                        "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
	}
}

// sample measures a machine with so many KiB of free memory.
func sample(t *testing.T, available string) func() (pressure.Sample, error) {
	t.Helper()
	return measure.Machine{Root: root(t, machine(available)).Root, Disk: t.TempDir()}.Sample
}

func TestMachine(t *testing.T) {
	m, err := root(t, machine("1")).Machine()
	if err != nil {
		t.Fatal(err)
	}
	got := m.Info.OSImage + " " + m.Info.KernelVersion + " " + m.Info.BootID + " " + m.Info.SystemUUID
	if want := "Debian GNU/Linux 12 6.1.0 boot m"; got != want {
		t.Errorf("machine %q, want %q", got, want)
	}
	for name, want := range map[string]string{"cpu": "4", "memory": "1Gi", "hugepages-2Mi": "6Mi"} {
		q := m.Capacity[corev1.ResourceName(name)]
		if q.String() != want {
			t.Errorf("capacity of %s is %s, want %s", name, q.String(), want)
		}
	}
}

// fakeRuntime is away when err is set.
type fakeRuntime struct{ err error }

func (f *fakeRuntime) Ready(context.Context) error  { return f.err }
func (f *fakeRuntime) Version() string              { return "containerd://2.4.2" }
func (f *fakeRuntime) Status(context.Context) error { return nil }
func (f *fakeRuntime) Images(context.Context) ([]runtime.Image, error) {
	return []runtime.Image{{Tags: []string{"a:1"}, Size: 7}}, f.err
}

func TestWhatTheRuntimeSaidOutlivesIt(t *testing.T) {
	rt, now := &fakeRuntime{}, time.Now()
	g, err := NewGatherer(Config{
		Config:  &config.Config{Node: config.Node{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MaxPods: 110}, Paths: config.Paths{Root: t.TempDir()}},
		Version: "v1", Reader: root(t, machine("1")), Sample: sample(t, "1"), Runtime: rt, Network: rt, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	rt.err = errors.New("refused")
	f, err := g.Facts(t.Context())
	if err != nil || f.Conditions.RuntimeError != "" {
		t.Fatalf("a runtime that restarts makes the node not ready: %q, %v", f.Conditions.RuntimeError, err)
	}
	now = now.Add(runtimePatience)
	if f, err = g.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Conditions.RuntimeError != "refused" || len(f.Images) != 1 || f.Info.ContainerRuntimeVersion != "containerd://2.4.2" {
		t.Errorf("facts %+v", f)
	}
}

// TestCapacityFollowsTheMachine: memory that is added while the machine is up can be used without
// a restart of the agent; a fact that cannot be read for a moment is as it was.
func TestCapacityFollowsTheMachine(t *testing.T) {
	g, err := NewGatherer(Config{
		Config: &config.Config{
			Node: config.Node{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, Paths: config.Paths{Root: t.TempDir()},
		},
		Reader: root(t, machine("1024")), Sample: sample(t, "1024"), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	before, err := g.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	grown := machine("1024")
	grown["proc/meminfo"] = "MemTotal: 2097152 kB\nMemAvailable: 1024 kB\nSwapTotal: 0 kB\n"
	for _, reader := range []Reader{root(t, grown), root(t, map[string]string{})} {
		g.config.Reader = reader
		after, err := g.Facts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if was, is := before.Capacity.Memory(), after.Capacity.Memory(); is.Cmp(*was) <= 0 {
			t.Errorf("memory was %s and is %s", was, is)
		}
	}
}

func TestPressureStaysForTheTransitionPeriod(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	g, err := NewGatherer(Config{
		Config: &config.Config{
			Node: config.Node{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, Paths: config.Paths{Root: dir},
			Eviction: config.Eviction{Hard: map[string]string{"memory.available": "100Mi"}, TransitionPeriod: time.Minute},
		},
		Reader: root(t, machine("1024")), Sample: sample(t, "1024"), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		available string
		after     time.Duration
		want      bool
	}{
		{"1024", 0, true},
		{"1000000", 59 * time.Second, true},
		{"1000000", 2 * time.Second, false},
	} {
		now, g.config.Sample = now.Add(step.after), sample(t, step.available)
		f, err := g.Facts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f.Conditions.MemoryPressure != step.want {
			t.Errorf("after %s: pressure %v, want %v", step.after, f.Conditions.MemoryPressure, step.want)
		}
		if q := f.Reserved[corev1.ResourceName("memory")]; q.String() != "100Mi" {
			t.Errorf("reserved %s, want 100Mi", q.String())
		}
	}
}

func FuzzCountList(f *testing.F) {
	f.Add("0-3,7")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := countList(s); err == nil && n < 1 {
			t.Errorf("%q has %d members", s, n)
		}
	})
}

// hungRuntime says that it is ready and never lists its images, as a containerd whose disk hangs.
type hungRuntime struct{ *fakeRuntime }

func (hungRuntime) Images(ctx context.Context) ([]runtime.Image, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAHungImageListHoldsUpNoReport(t *testing.T) {
	rt := &fakeRuntime{}
	g, err := NewGatherer(Config{
		Config:  &config.Config{Node: config.Node{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MaxPods: 110}, Paths: config.Paths{Root: t.TempDir()}},
		Version: "v1", Reader: root(t, machine("1")), Sample: sample(t, "1"), Runtime: rt, Network: rt, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.config.Runtime = hungRuntime{rt}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f, err := g.Facts(t.Context())
		if err != nil || len(f.Images) != 1 || time.Since(began) > 10*time.Second {
			t.Errorf("after %s: images %v, %v; want the list of before", time.Since(began), f.Images, err)
		}
	})
}
