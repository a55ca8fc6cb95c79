package containerd

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/passwd"
)

// User resolves a user string in the image's /etc/passwd and /etc/group. It reads both files once
// per image.
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
