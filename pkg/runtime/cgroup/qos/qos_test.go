package qos

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func container(name string, requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func podOf(c ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: c}}
}

func TestOOMScoreAdj(t *testing.T) {
	const capacity = 1000 << 20
	always := corev1.ContainerRestartPolicyAlways
	side := container("s", list("", "10Mi"), nil)
	side.RestartPolicy = &always
	withSidecar := podOf(container("a", list("", "500Mi"), nil))
	withSidecar.Spec.InitContainers = []corev1.Container{side}
	critical := podOf(container("a", nil, nil))
	critical.Spec.PriorityClassName = "system-node-critical"
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		of   *corev1.Container
		want int
	}{
		"best effort":   {podOf(container("a", nil, nil)), nil, 1000},
		"guaranteed":    {podOf(container("a", nil, list("1", "1Gi"))), nil, -997},
		"critical":      {critical, nil, -997},
		"tenth":         {podOf(container("a", list("", "100Mi"), nil)), nil, 900},
		"more than all": {podOf(container("a", list("", "2000Mi"), nil)), nil, 3},
		"next to none":  {podOf(container("a", list("1m", ""), nil)), nil, 999},
		"sidecar":       {withSidecar, &side, 500},
	} {
		of := c.of
		if of == nil {
			of = &c.pod.Spec.Containers[0]
		}
		if got := OOMScoreAdj(c.pod, of, capacity); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestSharesAndQuota(t *testing.T) {
	for milli, want := range map[int64]uint64{0: 2, 1: 2, 100: 102, 1000: 1024, 1 << 30: MaxShares} {
		if got := Shares(milli); got != want {
			t.Errorf("shares of %dm: got %d, want %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 0, 1: 1000, 250: 25000, 2000: 200000} {
		if got := Quota(milli, 100000); got != want {
			t.Errorf("quota of %dm: got %d, want %d", milli, got, want)
		}
	}
}
