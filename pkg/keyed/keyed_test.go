package keyed_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/pkg/keyed"
)

// run starts a group and returns it with a function that ends it and checks that Run returned nil.
func run(t *testing.T, step keyed.Step[string]) (*keyed.Group[string], func()) {
	t.Helper()
	group, err := keyed.New(keyed.Config[string]{Step: step, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- group.Run(ctx) }()
	return group, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	}
}

func TestNewWantsStepAndClock(t *testing.T) {
	if _, err := keyed.New(keyed.Config[string]{}); err == nil {
		t.Error("a group without step was made")
	}
}

func TestWakesGatherIntoOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps int
		release := make(chan struct{})
		group, stop := run(t, func(context.Context, string) (keyed.Next, error) {
			steps++
			<-release
			return keyed.Next{}, nil
		})
		group.Wake("a")
		synctest.Wait()
		for range 10 { // while the first step is under way
			group.Wake("a")
		}
		release <- struct{}{}
		synctest.Wait()
		release <- struct{}{}
		synctest.Wait()
		if steps != 2 {
			t.Errorf("11 wakes made %d steps, want 2", steps)
		}
		stop()
	})
}

func TestKeysRunSideBySideAndOneKeyNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		under, most := map[string]int{}, 0
		group, stop := run(t, func(ctx context.Context, key string) (keyed.Next, error) {
			mu.Lock()
			under[key]++
			if under[key] > 1 {
				t.Errorf("two steps of %s side by side", key)
			}
			most = max(most, len(under))
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			delete(under, key)
			mu.Unlock()
			return keyed.Next{}, nil
		})
		for range 3 {
			for _, key := range []string{"a", "b", "c"} {
				group.Wake(key)
			}
			time.Sleep(700 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if most != 3 {
			t.Errorf("at most %d keys ran side by side, want 3", most)
		}
		stop()
	})
}

func TestNextAtWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		group, stop := run(t, func(context.Context, string) (keyed.Next, error) {
			at = append(at, time.Since(start))
			switch len(at) {
			case 1:
				return keyed.Next{At: time.Now().Add(time.Minute)}, nil
			case 2:
				return keyed.Next{At: time.Now().Add(-time.Hour)}, nil // overdue: at once
			}
			return keyed.Next{}, nil
		})
		group.Wake("a")
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []time.Duration{0, time.Minute, time.Minute}
		if len(at) != len(want) || at[1] != want[1] || at[2] != want[2] {
			t.Errorf("steps at %v, want %v", at, want)
		}
		stop()
	})
}

func TestErrorsAreRetriedWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		group, stop := run(t, func(context.Context, string) (keyed.Next, error) {
			at = append(at, time.Since(start))
			if len(at) < 4 {
				return keyed.Next{}, errors.New("not yet")
			}
			return keyed.Next{}, nil
		})
		group.Wake("a")
		time.Sleep(time.Hour)
		synctest.Wait()
		pauses := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
		if len(at) != 1+len(pauses) {
			t.Fatalf("steps at %v, want pauses up to %v", at, pauses)
		}
		for i, most := range pauses {
			if pause := at[i+1] - at[i]; pause < most/2 || pause > most {
				t.Errorf("steps at %v, want pauses up to %v, each at least half as long", at, pauses)
			}
		}
		stop()
	})
}

// TestErrorsAreNotRetriedInStep: what fails together is not tried again together.
func TestErrorsAreNotRetriedInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 100
		var mu sync.Mutex
		at := map[time.Time]int{}
		group, stop := run(t, func(context.Context, string) (keyed.Next, error) {
			mu.Lock()
			defer mu.Unlock()
			at[time.Now()]++
			return keyed.Next{}, errors.New("the server is away")
		})
		for i := range keys {
			group.Wake(fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		stop()
		// the first time is together
		delete(at, slices.SortedFunc(maps.Keys(at), time.Time.Compare)[0])
		for when, count := range at {
			if count > keys/4 {
				t.Fatalf("%d of %d keys were tried at %v", count, keys, when)
			}
		}
	})
}

func TestInterruptCancelsTheStepAndRunsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var second time.Duration
		steps := 0
		group, stop := run(t, func(ctx context.Context, _ string) (keyed.Next, error) {
			if steps++; steps == 1 {
				<-ctx.Done()
				return keyed.Next{}, ctx.Err()
			}
			second = time.Since(start)
			return keyed.Next{}, nil
		})
		group.Wake("a")
		time.Sleep(time.Minute)
		group.Interrupt("a")
		time.Sleep(time.Minute)
		synctest.Wait()
		if steps != 2 || second != time.Minute {
			t.Errorf("%d steps, the second after %v; want 2 and 1m0s", steps, second)
		}
		stop()
	})
}

func TestDoneEndsTheWorkerUnlessWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := 0
		release := make(chan struct{})
		group, stop := run(t, func(context.Context, string) (keyed.Next, error) {
			steps++
			<-release
			return keyed.Next{Done: true}, nil
		})
		group.Wake("a")
		synctest.Wait()
		group.Wake("a")
		release <- struct{}{}
		synctest.Wait()
		if steps != 2 || group.Len() != 1 {
			t.Errorf("woken while it ended: %d steps, %d workers; want 2 and 1", steps, group.Len())
		}
		release <- struct{}{}
		synctest.Wait()
		if group.Len() != 0 {
			t.Errorf("%d workers are left of a key that is done", group.Len())
		}
		group.Wake("a")
		synctest.Wait()
		if steps != 3 {
			t.Errorf("%d steps, want a third after a new wake", steps)
		}
		close(release)
		stop()
	})
}

func TestRunEndsWithEveryWorkerAndWakeBeforeRunCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stepped, ended := 0, 0
		group, err := keyed.New(keyed.Config[string]{Now: time.Now, Step: func(ctx context.Context, _ string) (keyed.Next, error) {
			stepped++
			<-ctx.Done()
			ended++
			return keyed.Next{}, ctx.Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		group.Wake("early")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- group.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || stepped != 1 || ended != 1 {
			t.Errorf("Run: %v, %d steps, %d ended; want nil, 1, 1", err, stepped, ended)
		}
		group.Wake("late") // must not start anything
		group.Interrupt("late")
		synctest.Wait()
		if stepped != 1 {
			t.Error("a wake after the end ran a step")
		}
		if err := group.Run(t.Context()); err == nil {
			t.Error("a second Run returned nil")
		}
	})
}
