package bed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Scratch is a folder and a cgroup name for tests that need no cluster but start things that may
// outlive a kill. Sweep removes mounts below the folder and the cgroups.
type Scratch struct{ run *run }

// NewScratch creates a folder. The caller removes it; if the caller is killed, the next Start or
// Sweep does.
func NewScratch(ctx context.Context) (*Scratch, error) {
	owner, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(rand.Text()[:6])
	r, err := newRun(ctx, record{ID: id, Owner: owner, Scratch: true, Cgroups: []string{"bed-" + id}})
	if err != nil {
		return nil, err
	}
	s := &Scratch{r}
	if err := os.Mkdir(s.Dir(), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("making a scratch folder: %w", err), s.Remove(ctx))
	}
	return s, nil
}

// Dir is the folder.
func (s *Scratch) Dir() string { return s.run.path("tmp") }

// Cgroup is the name of a cgroup that the test may create below the root of every hierarchy.
func (s *Scratch) Cgroup() string { return s.run.snapshot().Cgroups[0] }

// Remove removes everything.
func (s *Scratch) Remove(ctx context.Context) error {
	unlock, err := lockBase(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return removeRun(ctx, s.run)
}
