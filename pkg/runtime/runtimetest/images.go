package runtimetest

import (
	"errors"
	"reflect"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func imageCases() []testCase {
	return []testCase{
		{"an image is found by every reference", imageRefs},
		{"users are resolved in the image", users},
		{"a removed image is gone, and removing it again is no error", imageRemoval},
	}
}

func imageRefs(b *bench) {
	img, err := b.Runtime.Image(b.ctx, b.Image)
	b.noError(err)
	if !strings.HasPrefix(img.ID, "sha256:") || len(img.Tags) == 0 || len(img.Digests) == 0 || img.Size <= 0 {
		b.Fatalf("incomplete image %+v", img)
	}
	for _, ref := range []string{img.ID, strings.TrimPrefix(img.ID, "sha256:"), img.Tags[0], img.Digests[0]} {
		again, err := b.Runtime.Image(b.ctx, ref)
		if err != nil || again.ID != img.ID {
			b.Errorf("%q: %q, %v, want %q", ref, again.ID, err, img.ID)
		}
	}
	for _, ref := range []string{"no/such/image:1", strings.Repeat("0", 64), "docker.io/library/other@" + strings.SplitN(img.Digests[0], "@", 2)[1]} {
		if _, err := b.Runtime.Image(b.ctx, ref); !errors.Is(err, runtime.ErrNotFound) {
			b.Errorf("%q: %v, want ErrNotFound", ref, err)
		}
	}
	if _, err := b.Runtime.Image(b.ctx, "UPPER CASE"); err == nil || errors.Is(err, runtime.ErrNotFound) {
		b.Errorf("a malformed reference says %v", err)
	}
	all, err := b.Runtime.Images(b.ctx)
	b.noError(err)
	found := false
	for _, i := range all {
		found = found || i.ID == img.ID
	}
	if !found {
		b.Errorf("the list has no %s: %+v", img.ID, all)
	}
}

func users(b *bench) {
	img, err := b.Runtime.Image(b.ctx, b.Image)
	b.noError(err)
	for _, user := range []string{"app", "1000", "app:app"} {
		u, err := b.Runtime.User(b.ctx, img.ID, user)
		b.noError(err)
		if want := (runtime.User{UID: 1000, GID: 1001, Groups: []uint32{10}, Name: "app", Home: "/home/app"}); !reflect.DeepEqual(u, want) {
			b.Errorf("%q: %+v, want %+v", user, u, want)
		}
	}
	if u, err := b.Runtime.User(b.ctx, img.ID, "nobodyknows"); err == nil {
		b.Errorf("an unknown user is %+v", u)
	}
}

func imageRemoval(b *bench) {
	img, err := b.Runtime.Image(b.ctx, b.Image)
	b.noError(err)
	for range 2 {
		b.noError(b.Runtime.RemoveImage(b.ctx, img.ID))
		if _, err := b.Runtime.Image(b.ctx, b.Image); !errors.Is(err, runtime.ErrNotFound) {
			b.Errorf("got %v, want ErrNotFound", err)
		}
	}
}
