package podsync

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// OwnHost is a Host that several agents of pods may use: it leaves out the pods of others, such as
// those that a kubelet has by containerd's CRI plugin.
type OwnHost struct {
	Host
	Runtime runtime.Shared
}

// Leftovers implements Host.
func (h OwnHost) Leftovers(ctx context.Context) ([]types.UID, error) {
	left, err := h.Host.Leftovers(ctx)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	foreign, err := h.Runtime.Foreign(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(left, func(uid types.UID) bool { return foreign[uid] }), nil
}
