package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/passwd"
)

// User resolves a user string in the image's /etc/passwd and /etc/group, which are read once an
// image.
func (r *Runtime) User(ctx context.Context, imageID, user string) (runtime.User, error) {
	img, err := r.images.byID(ctx, imageID)
	if err != nil {
		return runtime.User{}, err
	}
	db, err := r.images.database(ctx, img)
	if err != nil {
		return runtime.User{}, fmt.Errorf("reading users of image %q: %w", img.name, err)
	}
	found, err := db.Lookup(user)
	if err != nil {
		return runtime.User{}, fmt.Errorf("image %q: %w", img.name, err)
	}
	return found, nil
}

func (s *imageStore) database(ctx context.Context, img *image) (passwd.Database, error) {
	unlock, err := s.r.locks.lock(ctx, "users/"+img.ID)
	if err != nil {
		return passwd.Database{}, err
	}
	defer unlock()
	s.mu.Lock()
	db, ok := s.users[img.ID]
	s.mu.Unlock()
	if ok {
		return db, nil
	}
	err = s.mounted(ctx, img, func(root string) error {
		users, err := readInRoot(root, "etc/passwd")
		if err != nil {
			return err
		}
		groups, err := readInRoot(root, "etc/group")
		if err != nil {
			return err
		}
		db = passwd.Parse(users, groups)
		return nil
	})
	if err != nil {
		return passwd.Database{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[img.ID] = db
	return db, nil
}

// mounted calls f with a read-only mount of the image. A lease keeps the mount's snapshot from
// garbage collection meanwhile, and gives it up to it should this agent die.
func (s *imageStore) mounted(ctx context.Context, img *image, f func(root string) error) (err error) {
	call, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	call, release, err := s.r.client.WithLease(call)
	if err != nil {
		return fmt.Errorf("leasing: %w", native(err))
	}
	undo := func(what string, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(call), cleanupTime)
		defer cancel()
		if rerr := f(ctx); err == nil && rerr != nil {
			err = fmt.Errorf("removing %s: %w", what, native(rerr))
		}
	}
	defer undo("the lease of the view", release)
	sn, key := s.r.snapshotter(), "nodeagent-view-"+randomID()
	mounts, err := sn.View(call, key, img.chain)
	if errdefs.IsNotFound(err) {
		if err := s.unpack(ctx, img); err != nil {
			return err
		}
		// with the lease, which call carries
		again, cancel := context.WithTimeout(context.WithoutCancel(call), imageCallTime)
		defer cancel()
		mounts, err = sn.View(again, key, img.chain)
	}
	if err != nil {
		return native(err)
	}
	defer undo("the view", func(ctx context.Context) error { return sn.Remove(ctx, key) })
	if err := os.MkdirAll(s.r.c.RunDir, 0o755); err != nil {
		return err
	}
	root, err := os.MkdirTemp(s.r.c.RunDir, "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(root) }()
	if err := mount.All(mounts, root); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	defer func() { _ = mount.UnmountAll(root, unix.MNT_DETACH) }()
	return f(root)
}

// maxDatabase is the longest users' file that is read, in bytes: an image's author is not trusted
// with the agent's memory.
const maxDatabase = 1 << 20

// readInRoot reads a file as a process whose root folder is root would: links, absolute ones too,
// never lead out of it. A file that is not there, or no file, is empty.
func readInRoot(root, name string) ([]byte, error) {
	text, err := hostfs.ReadInRoot(root, name, maxDatabase)
	for _, none := range []error{fs.ErrNotExist, unix.ENOTDIR, unix.ELOOP, hostfs.ErrNotRegular} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q of the image: %w", name, err)
	}
	return text, nil
}
