package cgroup

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// An archive has pods.yaml (a list); want has each group's name and limits, and the levels' shares.
func TestPlan(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var pods []*corev1.Pod
		if err := yaml.UnmarshalStrict(files["pods.yaml"], &pods); err != nil {
			t.Fatal(err)
		}
		plain := Layout{Root: "/", PerQOS: true}
		slices := Layout{Root: "/kubelet", Systemd: true, PerQOS: true}
		var out strings.Builder
		for _, p := range pods {
			fmt.Fprintf(&out, "%s (%s): %s\n  %s\n  %s\n  %s\n", p.Name, podspec.QOS(p),
				PodLimits(p, Enforce{CPUPeriod: 100000, Pids: 1024}), plain.ContainerPath(p, "c0ffee"),
				slices.ContainerPath(p, "c0ffee"), slices.Dir(slices.Pod(p)))
		}
		for _, class := range []corev1.PodQOSClass{corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
			fmt.Fprintf(&out, "level %s: shares=%d\n", class, LevelShares(class, pods))
		}
		return map[string][]byte{"want": []byte(out.String())}
	})
}

func TestNames(t *testing.T) {
	pod := &corev1.Pod{}
	pod.UID = "a-b-c"
	for _, l := range []Layout{{Root: "/", PerQOS: true}, {Root: "/x/y", PerQOS: true}, {Root: "", Systemd: true, PerQOS: true}} {
		dir := l.Dir(l.Pod(pod))
		if got := l.UID(dir[strings.LastIndex(dir, "/")+1:]); got != types.UID("a-b-c") {
			t.Errorf("%+v: the pod's UID reads back from %q as %q", l, dir, got)
		}
		level := l.Dir(l.Level(corev1.PodQOSBurstable))
		if got := l.UID(level[strings.LastIndex(level, "/")+1:]); got != "" {
			t.Errorf("%+v: level %q is taken for pod %q", l, level, got)
		}
	}
	flat := Layout{Root: "/x"}
	if got, want := flat.ContainerPath(pod, "id"), "/x/id"; got != want {
		t.Errorf("without levels: got %q, want %q", got, want)
	}
	if got, want := (Layout{Systemd: true}).PodPath(pod), "-.slice"; got != want {
		t.Errorf("the root slice: got %q, want %q", got, want)
	}
}
