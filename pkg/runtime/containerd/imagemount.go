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
)

// mounted calls f with a read-only mount of the image. A lease protects the mount's snapshot from
// garbage collection, and expires if the agent dies.
func (s *imageStore) mounted(ctx context.Context, img *image, f func(root string) error) (err error) {
	call, cancel := context.WithTimeout(ctx, imageCallTime)
	defer cancel()
	call, release, err := s.r.client.WithLease(call)
	if err != nil {
		return fmt.Errorf("creating a lease: %w", native(err))
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
		// call carries the lease
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

// maxDatabase is the largest passwd or group file that is read, in bytes: the image is not trusted
// with the agent's memory.
const maxDatabase = 1 << 20

// readInRoot reads a file of the image. Links, even absolute ones, never lead out of root. A
// missing file, or something that is not a regular file, reads as empty.
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
