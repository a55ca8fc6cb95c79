package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestHugePagesOfAPod: the pod's group gets its limits, and 0 for every size that the pod does not
// ask for. Folders take the place of cgroups, because few machines have the controller.
func TestHugePagesOfAPod(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), "memory": resource.MustParse("1Gi")}}},
		{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"hugepages-2Mi": resource.MustParse("6Mi")}}},
	}}}
	limits := PodLimits(pod, Enforce{})
	for name, c := range map[string]struct {
		files []string
		set   func(dir string, r *cgroups.Resources) error
	}{
		"v2": {
			[]string{"hugetlb.2MB.max", "hugetlb.1GB.max"},
			func(dir string, r *cgroups.Resources) error {
				m, err := fs2.NewManager(&cgroups.Cgroup{Resources: r}, dir)
				if err != nil {
					return err
				}
				return m.Set(r)
			},
		},
		"v1": {
			[]string{"hugetlb.2MB.limit_in_bytes", "hugetlb.1GB.limit_in_bytes"},
			func(dir string, r *cgroups.Resources) error { return (&fs.HugetlbGroup{}).Set(dir, r) },
		},
	} {
		dir := t.TempDir()
		cgroups.TestMode = true // which lets the files be on any file system
		t.Cleanup(func() { cgroups.TestMode = false })
		for _, f := range append(c.files, "cgroup.controllers") {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("hugetlb"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := &cgroups.Resources{SkipDevices: true, HugetlbLimit: hugePages(dir, []string{"2MB", "1GB"}, limits.HugePages)}
		if err := c.set(dir, r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, f := range c.files {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSpace(string(b)))
		}
		if want := []string{"10485760", "0"}; !slices.Equal(got, want) {
			t.Errorf("%s: %v say %v, want %v", name, c.files, got, want)
		}
	}
	if found := hugePages(t.TempDir(), []string{"2MB"}, limits.HugePages); len(found) != 0 {
		t.Errorf("a group without the controller's files is limited: %v", found)
	}
	if found := hugePages(t.TempDir(), []string{"2MB"}, NodeLimits(nil).HugePages); found != nil {
		t.Errorf("the group of all pods is limited: %v", found)
	}
}
