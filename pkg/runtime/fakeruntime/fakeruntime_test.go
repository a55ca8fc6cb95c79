package fakeruntime_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/fakeruntime"
	"github.com/nodeagent/nodeagent/pkg/runtime/runtimetest"
)

func newHost(t testing.TB) *fakeruntime.Host {
	h := fakeruntime.NewHost(time.Now)
	err := h.AddImage("busybox:1", fakeruntime.Image{
		Passwd: "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n", Group: "root:x:0:\nwheel:x:10:app\napp:x:1001:\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func spec(_ runtime.Sandbox, args ...string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Args: args}}
}

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(t testing.TB) runtimetest.Subject {
		h := newHost(t)
		agent := fakeruntime.New(h)
		return runtimetest.Subject{
			Runtime: agent, Image: "busybox:1", Spec: spec, LogDir: t.TempDir(),
			Restart: func(testing.TB) runtime.Runtime {
				agent.Crash()
				agent = fakeruntime.New(h)
				return agent
			},
		}
	})
}

func TestInjectedFailuresRebootAndString(t *testing.T) {
	h := newHost(t)
	wanted := errors.New("no")
	h.Fail = func(op fakeruntime.Op, subject string) error {
		if op == fakeruntime.OpStartSandbox && subject == "bad" {
			return wanted
		}
		return nil
	}
	r, ctx := fakeruntime.New(h), t.Context()
	if _, err := r.StartSandbox(ctx, runtime.SandboxConfig{Pod: runtime.PodRef{UID: "1", Name: "bad"}}); !errors.Is(err, wanted) {
		t.Errorf("got %v", err)
	}
	ref := runtime.PodRef{UID: "2", Namespace: "ns", Name: "good"}
	s, err := r.StartSandbox(ctx, runtime.SandboxConfig{Pod: ref})
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.Image(ctx, "busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.StartContainer(ctx, runtime.ContainerConfig{Pod: ref, Name: "c", Image: img, Spec: spec(s, "sleep", "9"), SandboxID: s.ID}); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveSandbox(ctx, ref.UID); err == nil {
		t.Error("a sandbox in use was removed")
	}
	want := "sandbox ns/good attempt 0 ready true\ncontainer ns/good c attempt 0 Running\nimage docker.io/library/busybox:1\n"
	if got := h.String(); got != want {
		t.Errorf("state is\n%swant\n%s", got, want)
	}
	hints, err := r.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h.SetDown(true)
	select {
	case _, open := <-hints:
		if open {
			t.Error("a hint instead of the end")
		}
	case <-time.After(time.Minute):
		t.Error("the watch of a daemon that is down goes on")
	}
	if _, err := r.List(ctx); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("a daemon that is down says %v", err)
	}
	h.SetDown(false)
	h.Reboot()
	if got := h.String(); !strings.Contains(got, "ready false") || !strings.Contains(got, "Exited 255") {
		t.Errorf("after a reboot:\n%s", got)
	}
}
