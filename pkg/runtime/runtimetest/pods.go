package runtimetest

import (
	"context"
	"reflect"
	"syscall"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func podCases() []testCase {
	return []testCase{
		{"an unknown pod is empty and removing it is no error", unknownPod},
		{"a sandbox starts once", sandboxOnce},
		{"a sandbox in the host's namespaces has none", sandboxOfHost},
		{"a newer sandbox attempt replaces the older", sandboxAttempt},
		{"removing a sandbox twice is no error", sandboxRemovedTwice},
		{"pods are listed in order with all their attempts", listing},
		{"a shared PID namespace has a path", sharedPID},
		{"a restarted agent finds everything as it was", restart},
		{"a restarted agent learns what ended meanwhile", restartExit},
		{"a cancelled watch ends its channel", watchEnds},
	}
}

func unknownPod(b *bench) {
	ref := b.pod()
	if p := b.get(ref.UID); !reflect.DeepEqual(p, runtime.Pod{}) {
		b.Errorf("got %+v, want the zero pod", p)
	}
	all, err := b.Runtime.List(b.ctx)
	b.noError(err)
	if len(all) != 0 {
		b.Errorf("a fresh host lists %+v", all)
	}
	id := runtime.ContainerID(ref.UID, "main", 0)
	b.noError(b.Runtime.RemoveSandbox(b.ctx, ref.UID))
	b.noError(b.Runtime.RemoveContainer(b.ctx, id))
	b.noError(b.Runtime.Signal(b.ctx, id, syscall.SIGTERM))
}

func sandboxOnce(b *bench) {
	ref := b.pod()
	first := b.sandbox(ref)
	if first.ID != runtime.SandboxID(ref.UID, 0) || !first.Ready || first.CreatedAt.IsZero() || len(first.IPs) == 0 {
		b.Errorf("incomplete sandbox %+v", first)
	}
	if ns := first.Namespaces; ns.Net == "" || ns.IPC == "" || ns.UTS == "" || ns.PID != "" {
		b.Errorf("namespaces %+v: want net, ipc and uts alone", ns)
	}
	if again := b.sandbox(ref); !reflect.DeepEqual(first, again) {
		b.Errorf("second start gave %+v, first %+v", again, first)
	}
	p := b.get(ref.UID)
	if p.Sandbox == nil || !reflect.DeepEqual(*p.Sandbox, first) || p.PodRef != ref {
		b.Errorf("Get says %+v, want sandbox %+v of %+v", p, first, ref)
	}
}

func sandboxOfHost(b *bench) {
	host, err := b.Runtime.StartSandbox(b.ctx, runtime.SandboxConfig{Pod: b.pod(), HostNetwork: true, HostIPC: true})
	b.noError(err)
	if host.Namespaces != (runtime.Namespaces{}) || !host.HostNetwork || len(host.IPs) != 0 {
		b.Errorf("a pod in the host's namespaces has %+v", host)
	}
}

func sandboxAttempt(b *bench) {
	ref := b.pod()
	b.sandbox(ref)
	second, err := b.Runtime.StartSandbox(b.ctx, runtime.SandboxConfig{Pod: ref, Attempt: 1, Hostname: ref.Name})
	b.noError(err)
	if p := b.get(ref.UID); second.Attempt != 1 || p.Sandbox == nil || p.Sandbox.ID != runtime.SandboxID(ref.UID, 1) {
		b.Errorf("got %+v, pod %+v", second, p)
	}
}

func sandboxRemovedTwice(b *bench) {
	ref := b.pod()
	b.sandbox(ref)
	b.noError(b.Runtime.RemoveSandbox(b.ctx, ref.UID))
	if p := b.get(ref.UID); !p.Empty() {
		b.Errorf("left behind: %+v", p)
	}
	b.noError(b.Runtime.RemoveSandbox(b.ctx, ref.UID))
	b.sandbox(ref) // and it can be started again
}

func listing(b *bench) {
	one, two := b.pod(), b.pod()
	s2 := b.sandbox(two)
	s1 := b.sandbox(one)
	c := b.config(one, s1, "sleep", "1000")
	b.start(c)
	b.noError(b.Runtime.Signal(b.ctx, c.ID(), syscall.SIGKILL))
	b.exited(one.UID)
	c.Attempt = 1
	b.start(c)
	c.Name = "aaa"
	b.start(c)
	all, err := b.Runtime.List(b.ctx)
	b.noError(err)
	if len(all) != 2 || all[0].PodRef != one || all[1].PodRef != two || all[1].Sandbox.ID != s2.ID {
		b.Fatalf("got %+v", all)
	}
	var names []string
	for _, c := range all[0].Containers {
		names = append(names, c.Name+string(rune('0'+c.Attempt)))
	}
	if want := []string{"aaa1", "main0", "main1"}; !reflect.DeepEqual(names, want) {
		b.Errorf("containers %v, want %v", names, want)
	}
	if prev := all[0].Previous("main"); prev == nil || prev.State != runtime.Exited || prev.ExitCode != 137 {
		b.Errorf("previous attempt %+v, want one that exited with 137", prev)
	}
}

func sharedPID(b *bench) {
	ref := b.pod()
	s, err := b.Runtime.StartSandbox(b.ctx, runtime.SandboxConfig{Pod: ref, Hostname: "h", ShareProcessNamespace: true})
	b.noError(err)
	if s.Namespaces.PID == "" {
		b.Fatalf("no PID namespace in %+v", s)
	}
	b.start(b.config(ref, s, "sleep", "1000"))
	if p := b.get(ref.UID); len(p.Containers) != 1 {
		b.Errorf("the reaper shows as a container: %+v", p.Containers)
	}
	b.noError(b.Runtime.RemoveContainer(b.ctx, runtime.ContainerID(ref.UID, "main", 0)))
	b.noError(b.Runtime.RemoveSandbox(b.ctx, ref.UID))
}

func restart(b *bench) {
	ref, c := b.running("sleep", "1000")
	before := b.get(ref.UID)
	b.Runtime = b.Restart(b.TB)
	after := b.get(ref.UID)
	for _, p := range []*runtime.Pod{&before, &after} { // compared by value below
		p.Containers[0].CreatedAt = c.CreatedAt
		p.Containers[0].Resources = nil
		if !p.Containers[0].StartedAt.Equal(c.StartedAt) {
			b.Errorf("started at %v, want %v", p.Containers[0].StartedAt, c.StartedAt)
		}
		p.Containers[0].StartedAt = c.StartedAt
		p.Sandbox.CreatedAt = c.CreatedAt
	}
	if !reflect.DeepEqual(before, after) {
		b.Errorf("after the restart\n%+v\nbefore\n%+v", after, before)
	}
	b.noError(b.Runtime.Signal(b.ctx, c.ID, syscall.SIGKILL))
	if end := b.exited(ref.UID); end.ExitCode != 137 {
		b.Errorf("exit code %d, want 137", end.ExitCode)
	}
}

func restartExit(b *bench) {
	ref := b.pod()
	b.start(b.config(ref, b.sandbox(ref), "sh", "-c", "echo early; sleep 1; echo late; exit 7"))
	b.Runtime = b.Restart(b.TB)
	if c := b.exited(ref.UID); c.ExitCode != 7 || c.FinishedAt.IsZero() {
		b.Errorf("got %+v, want exit code 7", c)
	}
	b.Runtime = b.Restart(b.TB)
	if c := b.exited(ref.UID); c.ExitCode != 7 || c.SpecHash != "h1" || c.MessagePath != "/message" {
		b.Errorf("after another restart: %+v", c)
	}
}

func watchEnds(b *bench) {
	ctx, cancel := context.WithCancel(b.ctx)
	hints, err := b.Runtime.Watch(ctx)
	b.noError(err)
	cancel()
	for range hints {
	}
}
