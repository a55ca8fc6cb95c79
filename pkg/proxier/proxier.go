// Package proxier is LOOP: the services half. A Tracker keeps the newest Services, EndpointSlices
// and what is known of the node; a Loop, one for each IP family, has snapshot.Build make a
// Snapshot of them and a Backend program it, and then tells Observers. It decides when; what is
// decided by others. It reads neither the API nor the kernel. Its interfaces are the CONTRACT that
// backends implement; package proxiertest holds what each of them must do.
package proxier

import (
	"context"
	"time"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Backend programs one IP family of a node. Its life: it is made without effect; the first Sync
// takes over whatever rules there are; each later Sync brings the kernel from one snapshot to the
// next; Cleanup removes all its rules from the kernel.
//
// Sync gets the whole desired state every time, and the same snapshot twice is the same as once.
// After an error the kernel may hold the old rules, the new ones or, table by table, some of both;
// the next Sync, with any snapshot, repairs that. After a snapshot.LeftOutError everything is
// programmed but the ports that the error names.
//
// What only some backends can do are further interfaces: QuickChecker, Waker, Finder. A Leaver
// removes what a mode left behind, whether or not this version can program the mode.
type Backend interface {
	Sync(ctx context.Context, s *snapshot.Snapshot) error
	// Check compares the kernel with what was synced. After it has reported differences, the next
	// Sync repairs them.
	Check(ctx context.Context) (drift []string, err error)
	// Cleanup works without a Sync before it, and twice. It leaves other programs' rules alone.
	Cleanup(ctx context.Context) error
}

// QuickChecker is a Backend that knows, at the cost of a system call, whether anyone has written
// since its last Sync, Check or QuickCheck. If a rule is missing, lost names it, and the next Sync
// repairs it; if only written is true, a Check is worth its cost.
type QuickChecker interface {
	QuickCheck(ctx context.Context) (written bool, lost string, err error)
}

// Waker is a Backend that has to act later although nothing changes, such as when a removed
// endpoint has drained. After each Sync the Loop asks when to call Sync again; the zero value: not
// before something changes.
type Waker interface {
	WakeAt() time.Time
}

// Finder is a Backend that knows which Services the kernel's rules served before its first Sync.
type Finder interface {
	// FoundUDP are the frontends of UDP; nil before the first Sync.
	FoundUDP() []snapshot.Frontend
}

// Leaver removes what a proxy mode left on the node, once the Backend of another mode has synced,
// and breaks no connection. It is called again, after a while, until it waits for nothing.
type Leaver interface {
	// Leave removes what can go now; waiting is how many connections keep the rest.
	Leave(ctx context.Context) (waiting int, err error)
}

// Observer is called after each Sync that succeeded. prev is the snapshot of its last call that
// returned nil; nil at first.
type Observer interface {
	Synced(ctx context.Context, prev, now *snapshot.Snapshot) error
}
