package podsync

import (
	"context"
	"sync"
)

// pullPlaces limits how many pulls run at a time, in total and from each registry. A pull takes the
// place of its registry first: pulls that queue for a registry that does not answer hold nothing
// that another registry's pull needs.
type pullPlaces struct {
	total       places
	perRegistry int

	mu         sync.Mutex
	registries map[string]*registryPlaces
}

type registryPlaces struct {
	places
	users int // that hold a place or wait for one
}

// places are free while the channel takes one more; nil: no limit.
type places chan struct{}

func newPlaces(n int) places {
	if n <= 0 {
		return nil
	}
	return make(places, n)
}

func (p places) enter(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p places) leave() {
	if p != nil {
		<-p
	}
}

func newPullPlaces(total, perRegistry int) *pullPlaces {
	return &pullPlaces{total: newPlaces(total), perRegistry: perRegistry, registries: map[string]*registryPlaces{}}
}

// enter waits for a place; the caller gives it back with leave.
func (p *pullPlaces) enter(ctx context.Context, registry string) (leave func(), err error) {
	r := p.use(registry)
	if err := r.enter(ctx); err != nil {
		p.unuse(registry, r)
		return nil, err
	}
	if err := p.total.enter(ctx); err != nil {
		r.leave()
		p.unuse(registry, r)
		return nil, err
	}
	return func() {
		p.total.leave()
		r.leave()
		p.unuse(registry, r)
	}, nil
}

func (p *pullPlaces) use(registry string) *registryPlaces {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.registries[registry]
	if r == nil {
		r = &registryPlaces{places: newPlaces(p.perRegistry)}
		p.registries[registry] = r
	}
	r.users++
	return r
}

func (p *pullPlaces) unuse(registry string, r *registryPlaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.users--; r.users == 0 {
		delete(p.registries, registry)
	}
}
