package runtime

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
)

// Powers that a Runtime may have. WithAllPowers finds those of a runtime and replaces the missing
// ones with what their comments say.

// Daemon is a runtime that depends on a program outside of the agent. A runtime without this power
// needs no Run and is always ready.
type Daemon interface {
	// Run keeps the connection to the program until ctx ends; it leaves no goroutine behind.
	Run(ctx context.Context) error
	// Ready returns nil if the program works, else an error for the node's Ready condition.
	Ready(ctx context.Context) error
	// Version is the program's name and version as in Node.status.nodeInfo
	// ("containerd://2.4.2"); "" if unknown.
	Version() string
}

// Handlers is a runtime that can run pods of a RuntimeClass. A runtime without this power refuses
// them.
type Handlers interface {
	// HandlerNames lists the RuntimeClass handlers, without "".
	HandlerNames() []string
}

// LocalStorage is a runtime whose containers use the node's disk. Without this power, writable
// layers count as empty, and the volumes that an image declares are left out.
type LocalStorage interface {
	// WritableBytes is the disk usage of a container's writable layer and image volumes in bytes;
	// 0 if it has neither.
	WritableBytes(ctx context.Context, containerID string) (int64, error)
	// VolumeDir is the folder for the volumes that a container's image declares
	// (ContainerConfig.ImageVolumes).
	VolumeDir(containerID string) string
}

// Shared is a runtime that other agents may use as well. Without this power, every pod on the host
// counts as this agent's.
type Shared interface {
	// Foreign lists the pods of other agents, whose remains must be left alone.
	Foreign(ctx context.Context) (map[types.UID]bool, error)
}

// Complete is a Runtime with every power.
type Complete interface {
	Runtime
	Daemon
	Handlers
	LocalStorage
	Shared
}

// WithAllPowers returns the runtime with every power: its own, or the replacement that the power's
// comment describes.
func WithAllPowers(r Runtime) Complete {
	all := complete{r, lacking{}, lacking{}, lacking{}, lacking{}}
	if p, ok := r.(Daemon); ok {
		all.Daemon = p
	}
	if p, ok := r.(Handlers); ok {
		all.Handlers = p
	}
	if p, ok := r.(LocalStorage); ok {
		all.LocalStorage = p
	}
	if p, ok := r.(Shared); ok {
		all.Shared = p
	}
	return all
}

type complete struct {
	Runtime
	Daemon
	Handlers
	LocalStorage
	Shared
}

// lacking replaces the powers that a runtime lacks.
type lacking struct{}

func (lacking) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (lacking) Ready(context.Context) error { return nil }

func (lacking) Version() string { return "" }

func (lacking) HandlerNames() []string { return nil }

func (lacking) WritableBytes(context.Context, string) (int64, error) { return 0, nil }

func (lacking) VolumeDir(string) string { return "" }

func (lacking) Foreign(context.Context) (map[types.UID]bool, error) { return nil, nil }
