package containerd

import (
	"context"
	"sync"
)

// keyLocks are mutexes by key; the zero value is ready.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	ch    chan struct{}
	users int
}

// tryLock locks the key unless somebody holds it or waits for it.
func (k *keyLocks) tryLock(key string) (func(), bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks[key] != nil {
		return nil, false
	}
	l := k.use(key)
	l.ch <- struct{}{}
	return func() { <-l.ch; k.release(key, l) }, true
}

// lock waits for the key or until ctx ends; call the returned function to unlock.
func (k *keyLocks) lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	l := k.use(key)
	k.mu.Unlock()
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; k.release(key, l) }, nil
	case <-ctx.Done():
		k.release(key, l)
		return nil, ctx.Err()
	}
}

// use requires k.mu.
func (k *keyLocks) use(key string) *keyLock {
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{ch: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	return l
}

func (k *keyLocks) release(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}

// containerKey is the lock for starting, adopting and removing a container.
func containerKey(id string) string { return "container/" + id }

// shimKey is the lock for creating and deleting tasks of one shim, which does not do both at once:
// it exits with its last task even while it creates the next one.
func shimKey(c *container) string {
	if c.c.SandboxID == "" {
		return "shim/" + c.c.ID
	}
	return "shim/" + c.c.SandboxID
}
