package podsync_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// registries stand in for the runtime: what comes from stuck.test never ends by itself, anything
// else takes a second.
type registries struct {
	mu     sync.Mutex
	now    map[string]int // running pulls, by registry
	most   map[string]int
	total  int
	record int // the most in total
}

func (r *registries) Image(context.Context, string) (runtime.Image, error) {
	return runtime.Image{}, runtime.ErrNotFound
}

func (r *registries) Pull(ctx context.Context, ref string, _ []runtime.Credentials) (runtime.Image, error) {
	registry, _, _ := strings.Cut(ref, "/")
	r.count(registry, 1)
	defer r.count(registry, -1)
	if registry == "stuck.test" {
		<-ctx.Done()
		return runtime.Image{}, ctx.Err()
	}
	time.Sleep(time.Second) // of the test's own clock
	return runtime.Image{ID: ref}, nil
}

func (r *registries) count(registry string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now[registry] += n
	r.total += n
	r.most[registry], r.record = max(r.most[registry], r.now[registry]), max(r.record, r.total)
}

func (r *registries) Credentials(context.Context, *corev1.Pod, string) ([]runtime.Credentials, []string) {
	return nil, nil
}

func (r *registries) Event(k8sruntime.Object, string, string, string) {}

func newRegistries() *registries { return &registries{now: map[string]int{}, most: map[string]int{}} }

func TestPullsAreBoundedInTotalAndByRegistry(t *testing.T) {
	for _, c := range []struct{ parallel, perRegistry, wantTotal, wantEach, seconds int }{
		{4, 3, 4, 3, 7}, {1, 1, 1, 1, 20}, {0, 0, 20, 10, 1}, {0, 5, 10, 5, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistries()
			p, err := podsync.NewPuller(podsync.PullerConfig{
				Images: r, Secrets: r, Events: r, Parallel: c.parallel, PerRegistry: c.perRegistry, Now: time.Now,
			})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					ref := fmt.Sprintf("r%d.test/app%d:1", i/10, i)
					if _, err := p.Ensure(t.Context(), &corev1.Pod{}, podplan.EnsureImage{Container: "c", Ref: ref}); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait() // all of one registry come before the first of the other
			}
			wg.Wait()
			if took := time.Since(began); took > time.Duration(c.seconds)*time.Second {
				t.Errorf("%d at a time, %d a registry: 20 pulls of a second each took %s, want %ds at most", c.parallel, c.perRegistry, took, c.seconds)
			}
			if r.record != c.wantTotal || r.most["r0.test"] != c.wantEach {
				t.Errorf("%d at a time, %d a registry: at most %d, %d of one registry, want %d and %d",
					c.parallel, c.perRegistry, r.record, r.most["r0.test"], c.wantTotal, c.wantEach)
			}
		})
	}
}

func TestAStuckRegistryHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistries()
		p, err := podsync.NewPuller(podsync.PullerConfig{Images: r, Secrets: r, Events: r, Parallel: 4, PerRegistry: 3, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		for i := range 10 {
			stuck.Go(func() {
				_, _ = p.Ensure(ctx, &corev1.Pod{}, podplan.EnsureImage{Container: "c", Ref: fmt.Sprintf("stuck.test/app%d:1", i)})
			})
		}
		synctest.Wait()
		began := time.Now()
		if _, err := p.Ensure(t.Context(), &corev1.Pod{}, podplan.EnsureImage{Container: "c", Ref: "good.test/app:1"}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("beside ten pulls from a stuck registry a pull of a second took %s", took)
		}
		cancel()
		stuck.Wait()
		if r.most["stuck.test"] != 3 || r.total != 0 {
			t.Errorf("%d pulls from the stuck registry at a time, %d left, want 3 and 0", r.most["stuck.test"], r.total)
		}
	})
}
