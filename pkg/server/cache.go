package server

import (
	"sync"
	"time"
)

// cacheSize bounds a cache, so that a flood of made-up tokens cannot fill memory.
const cacheSize = 4096

// cache keeps each answer for a time.
type cache[V any] struct {
	now func() time.Time
	mu  sync.Mutex
	all map[string]cached[V]
}

type cached[V any] struct {
	value V
	until time.Time
}

func newCache[V any](now func() time.Time) *cache[V] {
	return &cache[V]{now: now, all: map[string]cached[V]{}}
}

func (c *cache[V]) get(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.all[key]
	if !ok || !c.now().Before(e.until) {
		delete(c.all, key)
		return *new(V), false
	}
	return e.value, true
}

func (c *cache[V]) put(key string, v V, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if len(c.all) >= cacheSize {
		for k, e := range c.all {
			if !now.Before(e.until) {
				delete(c.all, k)
			}
		}
	}
	for k := range c.all {
		if len(c.all) < cacheSize {
			break
		}
		delete(c.all, k) // any of them: the API server is asked again
	}
	c.all[key] = cached[V]{value: v, until: now.Add(ttl)}
}
