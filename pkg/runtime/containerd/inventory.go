package containerd

import (
	"cmp"
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Inventory lists every pod with a sandbox or a container, in order of UID, as containerd's records
// and the state folder have them. Unlike List it needs no Run and changes nothing; the containers'
// states are not known.
func (r *Runtime) Inventory(ctx context.Context) ([]runtime.Pod, error) {
	records, err := r.recorded(ctx)
	if err != nil {
		return nil, err
	}
	sandboxes, err := r.readSandboxes()
	if err != nil {
		return nil, err
	}
	pods := map[types.UID]*runtime.Pod{}
	at := func(ref runtime.PodRef) *runtime.Pod {
		if pods[ref.UID] == nil {
			pods[ref.UID] = &runtime.Pod{PodRef: ref}
		}
		return pods[ref.UID]
	}
	for _, record := range records {
		if record.Labels[labelName] == "" { // a sandbox's reaper
			continue
		}
		ref, c, _, _ := fromRecord(record) // with an error it has what can be read
		p := at(ref)
		p.Containers = append(p.Containers, c)
	}
	for _, s := range sandboxes {
		at(s.Config.Pod).Sandbox = &s.Sandbox
	}
	all := make([]runtime.Pod, 0, len(pods))
	for _, p := range pods {
		slices.SortFunc(p.Containers, byNameAndAttempt)
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b runtime.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return all, nil
}
