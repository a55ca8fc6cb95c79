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
	// firstWait and lastWait bound the pause between two passes; it doubles. The first ones are
	// soon after the first rules, which load the kernel module that has most of the parameters.
	firstWait = time.Second
	lastWait  = time.Minute
	// patience is how many passes go by before it is told that the module is not loaded.
	patience = 4
)

// Config is what a Keeper is made of.
type Config struct {
	// Wanted are the changes to make as things are now.
	Wanted  func() []Change
	Sysctls Sysctls
	Log     *slog.Logger
	// Told is called with each problem that is new; may be nil.
	Told func(problem error)
}

// Keeper sets parameters once each, whenever they can be: not all exist before the kernel has
// loaded their module. What others change later stays as they want it. What others have to set is
// looked at for as long as it runs.
type Keeper struct {
	c        Config
	done     map[Change]bool
	mu       sync.Mutex
	problems []Outcome
	told     map[string]bool // texts of problems that still are
	passes   int
}

// NewKeeper checks the configuration; it does nothing yet.
func NewKeeper(c Config) (*Keeper, error) {
	if c.Wanted == nil || c.Sysctls == nil || c.Log == nil {
		return nil, errors.New("making the keeper of kernel parameters: Wanted, Sysctls and Log are needed")
	}
	return &Keeper{c: c, done: map[Change]bool{}}, nil
}

// Run sets and looks until ctx ends; it returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, lastWait) {
		k.pass()
		_ = sleep.For(ctx, wait)
	}
	return nil
}

// Problems are what is not as it should be, for a status.
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
	told := map[string]bool{}
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
		told[o.Err.Error()] = true
		if k.told[o.Err.Error()] {
			continue
		}
		o.log(k.c.Log)
		if k.c.Told != nil {
			k.c.Told(o.Err)
		}
	}
	k.told = told
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problems = problems
}
