package sysctl

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

const (
	// firstWait and lastWait bound the pause between two passes; it doubles. It begins short,
	// since the first rules load the kernel module that has most of the parameters.
	firstWait = time.Second
	lastWait  = time.Minute
	// patience is how many passes go by before a module that is not loaded is reported.
	patience = 4
)

// Config is what a Keeper is made of.
type Config struct {
	// Wanted are the changes to make now.
	Wanted  func() []Change
	Sysctls Sysctls
	Log     *slog.Logger
	// Problem is called with each new problem; may be nil.
	Problem func(problem error)
}

// Keeper sets each parameter once, as soon as it exists: some appear only when the kernel loads
// their module. What others change afterwards stays. Parameters that others have to set are
// checked for as long as the Keeper runs.
type Keeper struct {
	c        Config
	done     map[Change]bool
	mu       sync.Mutex
	problems []Outcome
	reported map[string]bool // texts of current problems
	passes   int
}

// NewKeeper checks the configuration; it does nothing yet.
func NewKeeper(c Config) (*Keeper, error) {
	if c.Wanted == nil || c.Sysctls == nil || c.Log == nil {
		return nil, errors.New("making the keeper of kernel parameters: Wanted, Sysctls and Log are needed")
	}
	return &Keeper{c: c, done: map[Change]bool{}}, nil
}

// Run sets and checks parameters until ctx ends; it returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, lastWait) {
		k.pass()
		_ = sleep.For(ctx, wait)
	}
	return nil
}

// Problems are the parameters that are not as they should be, for a status.
func (k *Keeper) Problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, o := range k.problems {
		out = append(out, o.Err.Error())
	}
	return out
}

func (k *Keeper) pass() {
	var open []Change
	for _, c := range k.c.Wanted() {
		if !k.done[c] {
			open = append(open, c)
		}
	}
	k.passes++
	var problems []Outcome
	reported := map[string]bool{}
	for _, o := range Apply(open, k.c.Sysctls) {
		if o.Err == nil {
			k.done[o.Change] = !o.Check
			o.log(k.c.Log)
			continue
		}
		problems = append(problems, o)
		if o.Pending && k.passes < patience {
			continue
		}
		reported[o.Err.Error()] = true
		if k.reported[o.Err.Error()] {
			continue
		}
		o.log(k.c.Log)
		if k.c.Problem != nil {
			k.c.Problem(o.Err)
		}
	}
	k.reported = reported
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problems = problems
}
