// Package runtimetest is a CONTRACT: the conformance suite of package runtime. Run checks through
// the contract alone that an implementation keeps its promises. It depends on nothing but package
// runtime, so that an implementation outside of this module can use it:
//
//	func TestConformance(t *testing.T) {
//		runtimetest.Run(t, func(t testing.TB) runtimetest.Subject { return newSubject(t) })
//	}
//
// The tests leave pods behind; Subject's maker removes them with t.Cleanup. Package fakeruntime has
// a short example of a subject, test/containerd a real one.
package runtimetest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Subject is an implementation under test, on its own host that holds nothing but one image.
type Subject struct {
	Runtime runtime.Runtime
	// Image is a short reference (like "busybox:1") of an image in the store. It has the commands
	// true, false, sleep N, echo WORDS, cat, and sh -c with exit N, sleep N and echo WORDS
	// separated by semicolons; and a user app (1000:1001, groups 10).
	Image string
	// Spec returns a finished spec that runs args in the sandbox.
	Spec func(s runtime.Sandbox, args ...string) *specs.Spec
	// LogDir is the folder for log files.
	LogDir string
	// Restart ends this instance like a crash and returns a new one on the same host.
	Restart func(t testing.TB) runtime.Runtime
}

// patience is how long the suite waits for a change. It is far more than any should take, so that a
// busy machine fails no test.
const patience = time.Minute

// bench is one test's subject with helper methods.
type bench struct {
	testing.TB
	Subject
	ctx context.Context
	n   int
}

// Run runs the whole suite as subtests of t; start makes a fresh subject for each.
func Run(t *testing.T, start func(t testing.TB) Subject) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			c.run(&bench{TB: t, Subject: start(t), ctx: ctx})
		})
	}
}

type testCase struct {
	name string
	run  func(b *bench)
}

func cases() []testCase {
	return slices.Concat(podCases(), containerCases(), streamCases(), imageCases())
}

// pod returns a new pod.
func (b *bench) pod() runtime.PodRef {
	b.n++
	return runtime.PodRef{UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", b.n)), Namespace: "default", Name: fmt.Sprintf("pod-%d", b.n)}
}

func (b *bench) sandbox(ref runtime.PodRef) runtime.Sandbox {
	b.Helper()
	s, err := b.Runtime.StartSandbox(b.ctx, runtime.SandboxConfig{Pod: ref, Hostname: ref.Name})
	if err != nil {
		b.Fatalf("starting sandbox: %v", err)
	}
	return s
}

// config describes a container main that runs args in the sandbox.
func (b *bench) config(ref runtime.PodRef, s runtime.Sandbox, args ...string) runtime.ContainerConfig {
	b.Helper()
	img, err := b.Runtime.Image(b.ctx, b.Image)
	if err != nil {
		b.Fatalf("finding image: %v", err)
	}
	return runtime.ContainerConfig{
		Pod: ref, Name: "main", Image: img, ImageRef: b.Image, Spec: b.Spec(s, args...), SpecHash: "h1", SandboxID: s.ID,
		LogPath: filepath.Join(b.LogDir, string(ref.UID), "main", "0.log"), MessagePath: "/message",
	}
}

func (b *bench) start(c runtime.ContainerConfig) runtime.Container {
	b.Helper()
	got, err := b.Runtime.StartContainer(b.ctx, c)
	if err != nil {
		b.Fatalf("starting container: %v", err)
	}
	return got
}

// running starts a new pod with one container that runs args.
func (b *bench) running(args ...string) (runtime.PodRef, runtime.Container) {
	b.Helper()
	ref := b.pod()
	c := b.start(b.config(ref, b.sandbox(ref), args...))
	if c.State != runtime.Running {
		b.Fatalf("container is %s (%s), want Running", c.State, c.StartError)
	}
	return ref, c
}

func (b *bench) get(uid types.UID) runtime.Pod {
	b.Helper()
	p, err := b.Runtime.Get(b.ctx, uid)
	if err != nil {
		b.Fatalf("getting pod: %v", err)
	}
	return p
}

// await waits until ok accepts the pod. It relies on Watch alone: a change that Watch does not
// report fails the test.
func (b *bench) await(uid types.UID, what string, ok func(runtime.Pod) bool) runtime.Pod {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for {
		hints, err := b.Runtime.Watch(ctx)
		if err != nil {
			b.Fatalf("watching: %v", err)
		}
		p := b.get(uid)
		for !ok(p) {
			hint, open := <-hints
			if ctx.Err() != nil {
				b.Fatalf("Watch did not report: %s; the pod is %+v", what, b.get(uid))
			}
			if !open {
				break // list again
			}
			if hint == uid {
				p = b.get(uid)
			}
		}
		if ok(p) {
			return p
		}
	}
}

// exited waits until the newest attempt of container main has exited.
func (b *bench) exited(uid types.UID) runtime.Container {
	b.Helper()
	p := b.await(uid, "exit", func(p runtime.Pod) bool {
		c := p.Latest("main")
		return c != nil && c.State == runtime.Exited
	})
	return *p.Latest("main")
}

func (b *bench) noError(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
