// Package proxier is LOOP: the services pipeline. A Tracker keeps the newest
// Services, EndpointSlices and node that informers hand it; a Loop, one for
// each IP family, gathers their changes, has snapshot.Build make a Snapshot of all of it and a
// Backend make the kernel do what it says, and then tells Observers. It alone
// decides when; what is decided by others. It never reads the API or the kernel.
package proxier

import (
	"context"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Backend programs a node. Its life: made without effect; the first Sync takes
// over whatever is there; each later one brings the kernel from one snapshot
// to the next; Cleanup removes everything of it that is in the kernel.
//
// The whole desired state goes in, every time. The same snapshot twice is the
// same as once. After an error the kernel may be in the old state, in the new one or,
// table by table, between; the next Sync, with any snapshot, puts it right.
// A snapshot.LeftOutError is not such: all but the ports that it names is done.
// Package proxiertest holds what every implementation must do.
type Backend interface {
	Sync(ctx context.Context, s *snapshot.Snapshot) error
	// Cleanup works without a Sync before it, and twice. Nothing of other
	// programs is touched.
	Cleanup(ctx context.Context) error
}

// Checker is what a Backend can do in addition: look whether another program
// changed what it wrote. Where it says how the kernel differs, the next Sync
// puts it right.
type Checker interface {
	Check(ctx context.Context) (drift []string, err error)
}

// Glancer is what a Checker can do in addition: see, at hardly any cost,
// whether anyone has written since it last looked. lost says what is missing
// if so; then the next Sync puts it right.
type Glancer interface {
	Glance(ctx context.Context) (written bool, lost string, err error)
}

// Observer is told after each Sync that succeeded. prev is the snapshot of its
// last call that returned nil; nil at first.
type Observer interface {
	Synced(ctx context.Context, prev, now *snapshot.Snapshot) error
}
