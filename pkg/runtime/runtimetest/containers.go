package runtimetest

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func containerCases() []testCase {
	return []testCase{
		{"a container runs and its exit code is kept", exitCodes},
		{"a container starts once", startOnce},
		{"many starts of one container make one", startConcurrently},
		{"signals end containers with 128 and their number", signals},
		{"a command that cannot be started is an exit with 128", startErrors},
		{"a running container can be removed, with its log", removal},
		{"a start that was cancelled can be made again", startCancelled},
		{"limits change while a container runs, and are remembered", resize},
		{"removing a container leaves its sandbox and siblings", siblings},
	}
}

func exitCodes(b *bench) {
	for code, args := range [][]string{{"true"}, {"false"}, {"sh", "-c", "exit 2"}} {
		ref := b.pod()
		config := b.config(ref, b.sandbox(ref), args...)
		config.Attempt, config.StopSignal = 3, "SIGQUIT"
		b.start(config)
		c := b.exited(ref.UID)
		if c.ExitCode != code || c.StartError != "" || c.OOMKilled || c.Attempt != 3 || c.ID != config.ID() {
			b.Errorf("%v: got %+v, want exit code %d", args, c, code)
		}
		if c.StartedAt.IsZero() || c.FinishedAt.Before(c.StartedAt.Add(-1e9)) || c.Image != b.Image || c.ImageID != config.Image.ID ||
			c.ImageDigest == "" || c.StopSignal != config.StopSignal || c.LogPath != config.LogPath || c.SandboxID != config.SandboxID {
			b.Errorf("%v: incomplete: %+v", args, c)
		}
	}
}

func startOnce(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "sleep", "1000")
	first := b.start(config)
	if again := b.start(config); again.Pid != first.Pid || !again.StartedAt.Equal(first.StartedAt) {
		b.Errorf("second start gave %+v, first %+v", again, first)
	}
	b.noError(b.Runtime.Signal(b.ctx, first.ID, syscall.SIGKILL))
	ended := b.exited(ref.UID)
	if again := b.start(config); !reflect.DeepEqual(again, ended) {
		b.Errorf("starting an attempt that ended gave %+v, want %+v", again, ended)
	}
	// signalling what ended is no error
	b.noError(b.Runtime.Signal(b.ctx, first.ID, syscall.SIGTERM))
}

func startConcurrently(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "sleep", "1000")
	var wg sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		wg.Go(func() {
			c, err := b.Runtime.StartContainer(b.ctx, config)
			if err != nil {
				b.Errorf("start %d: %v", i, err)
			}
			pids[i] = c.Pid
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == 0 {
			b.Fatalf("pids %v, want one", pids)
		}
	}
	if p := b.get(ref.UID); len(p.Containers) != 1 {
		b.Errorf("containers %+v, want one", p.Containers)
	}
}

func signals(b *bench) {
	ref, c := b.running("sh", "-c", "sleep 1000")
	b.noError(b.Runtime.Signal(b.ctx, c.ID, syscall.SIGKILL))
	if c := b.exited(ref.UID); c.ExitCode != 137 || c.OOMKilled {
		b.Errorf("got %+v, want exit code 137 and no OOM", c)
	}
}

func startErrors(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "/no/such/program")
	c := b.start(config)
	if c.State != runtime.Exited || c.ExitCode != 128 || !strings.Contains(c.StartError, "/no/such/program") || c.FinishedAt.IsZero() {
		b.Fatalf("got %+v, want an exit with 128 whose StartError names the program", c)
	}
	b.Runtime = b.Restart(b.TB)
	if again := b.get(ref.UID).Latest("main"); again == nil || again.StartError == "" || again.ExitCode != 128 {
		b.Errorf("after a restart of the agent: %+v", again)
	}
	config.Attempt, config.Spec = 1, b.config(ref, *b.get(ref.UID).Sandbox, "sleep", "1000").Spec
	if c := b.start(config); c.State != runtime.Running {
		b.Errorf("the next attempt is %+v", c)
	}
}

func removal(b *bench) {
	ref, c := b.running("sleep", "1000")
	b.noError(b.Runtime.RemoveContainer(b.ctx, c.ID))
	if p := b.get(ref.UID); len(p.Containers) != 0 {
		b.Errorf("left: %+v", p.Containers)
	}
	if _, err := os.Stat(c.LogPath); !os.IsNotExist(err) {
		b.Errorf("the log is still there (%v)", err)
	}
	b.noError(b.Runtime.RemoveContainer(b.ctx, c.ID))
	// the id is free again
	again := b.start(b.config(ref, *b.get(ref.UID).Sandbox, "sleep", "1000"))
	if again.ID != c.ID || again.State != runtime.Running {
		b.Errorf("got %+v", again)
	}
}

func startCancelled(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "sleep", "1000")
	for range 4 {
		ctx, cancel := context.WithCancel(b.ctx)
		go cancel()
		if _, err := b.Runtime.StartContainer(ctx, config); err != nil && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "cancel") {
			b.Fatalf("a cancelled start says %v", err)
		}
		cancel()
	}
	if c := b.start(config); c.State != runtime.Running {
		b.Errorf("got %+v, want it Running", c)
	}
}

// limitsOf are the limits in a spec, which may be written to.
func limitsOf(s *specs.Spec) *specs.LinuxResources {
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	copied := specs.LinuxResources{}
	if s.Linux.Resources != nil {
		copied = *s.Linux.Resources
	}
	s.Linux.Resources = &copied
	return &copied
}

func resize(b *bench) {
	ref := b.pod()
	config := b.config(ref, b.sandbox(ref), "sleep", "1000")
	shares, quota, period, limit := uint64(20), int64(20000), uint64(100000), int64(64<<20)
	config.SpecResources = "first"
	before := limitsOf(config.Spec)
	before.CPU, before.Memory = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period}, &specs.LinuxMemory{Limit: &limit}
	c := b.start(config)
	if c.SpecResources != "first" || c.Resources == nil {
		b.Fatalf("got %+v", c)
	}
	more, less := int64(96<<20), int64(10000)
	to := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &less, Period: &period}, Memory: &specs.LinuxMemory{Limit: &more}}
	for range 2 {
		b.noError(b.Runtime.UpdateResources(b.ctx, c.ID, "second", to))
	}
	resized := func(when string) {
		b.Helper()
		got := b.get(ref.UID).Latest("main")
		if got == nil || got.State != runtime.Running || got.Pid != c.Pid || got.SpecResources != "second" || got.SpecHash != "h1" {
			b.Fatalf("%s: got %+v", when, got)
		}
		r := got.Resources
		if *r.CPU.Shares != shares || *r.CPU.Quota != less || *r.Memory.Limit != more || !reflect.DeepEqual(r.Devices, before.Devices) {
			b.Errorf("%s: resources are %+v of CPU, %+v of memory, devices %v", when, r.CPU, r.Memory, r.Devices)
		}
	}
	resized("after the change")
	b.Runtime = b.Restart(b.TB)
	resized("after a restart of the agent")
	b.noError(b.Runtime.Signal(b.ctx, c.ID, syscall.SIGKILL))
	b.exited(ref.UID)
	// what does not run is left as it is
	b.noError(b.Runtime.UpdateResources(b.ctx, c.ID, "third", to))
	if got := b.get(ref.UID).Latest("main"); got.SpecResources != "second" {
		b.Errorf("after its end: SpecResources %q", got.SpecResources)
	}
	if err := b.Runtime.UpdateResources(b.ctx, runtime.ContainerID(ref.UID, "other", 0), "third", to); !errors.Is(err, runtime.ErrNotFound) {
		b.Errorf("of a container that does not exist: %v", err)
	}
}

func siblings(b *bench) {
	ref := b.pod()
	s := b.sandbox(ref)
	first := b.config(ref, s, "sleep", "1000")
	second := b.config(ref, s, "sleep", "1000")
	second.Name = "other"
	second.LogPath = strings.Replace(first.LogPath, "main", "other", 1)
	b.start(first)
	sibling := b.start(second)
	b.noError(b.Runtime.RemoveContainer(b.ctx, first.ID()))
	p := b.get(ref.UID)
	if len(p.Containers) != 1 || p.Containers[0].State != runtime.Running || p.Containers[0].Pid != sibling.Pid || p.Sandbox == nil || !p.Sandbox.Ready {
		b.Errorf("got %+v", p)
	}
	if code, err := b.Runtime.Exec(b.ctx, second.ID(), runtime.ExecConfig{Command: []string{"true"}}); err != nil || code != 0 {
		b.Errorf("the sibling cannot be reached: %d, %v", code, err)
	}
}
