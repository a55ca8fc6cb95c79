package cgroup_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
)

// One pod's groups are made and removed in every hierarchy of the machine.
func BenchmarkPod(b *testing.B) {
	root := fmt.Sprintf("/nodeagenttest%d", os.Getpid())
	tree, err := cgroup.New(cgroup.Config{Layout: cgroup.Layout{Root: root, PerQOS: true}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	pod := &corev1.Pod{}
	for i := range b.N {
		pod.UID = types.UID(fmt.Sprint(i))
		if err := tree.EnsurePod(b.Context(), pod); err != nil {
			b.Skip(err)
		}
		if err := tree.RemovePod(b.Context(), pod.UID); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	removeAll(b, cgroup.Layout{Root: root, PerQOS: true})
}
