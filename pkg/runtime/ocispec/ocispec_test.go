package ocispec_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

func TestExpand(t *testing.T) {
	env := []string{"A=1", "B=two", "EMPTY=", "A=one", "X=$(B)"}
	for in, want := range map[string]string{
		"":             "",
		"plain":        "plain",
		"$(A)":         "one",
		"$(A)$(B)":     "onetwo",
		"-$(EMPTY)-":   "--",
		"$(NONE)":      "$(NONE)",
		"$$(A)":        "$(A)",
		"$$$(A)":       "$one",
		"$$$$(A)":      "$$(A)",
		"$A ${A}":      "$A ${A}",
		"$(A":          "$(A",
		"$(A $(B)":     "$(A $(B)",
		"$()":          "$()",
		"$(X)":         "$(B)", // what is inserted is not expanded again
		"100$":         "100$",
		"$(A)$":        "one$",
		"bash -c 'x$'": "bash -c 'x$'",
	} {
		if got := ocispec.Expand(in, ocispec.Lookup(env)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// Text without known names and without "$$" stays the same, and expanding neither fails nor loses
// the text around.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$(A)", "$$(A)", "$(", "a$(A)b$", "$($(A))"} {
		f.Add(s)
	}
	none := func(string) (string, bool) { return "", false }
	f.Fuzz(func(t *testing.T, s string) {
		got := ocispec.Expand(s, none)
		if !strings.Contains(s, "$$") && got != s {
			t.Errorf("%q became %q", s, got)
		}
		if want := strings.ReplaceAll(s, "$$", "$"); strings.Count(s, "(") == 0 && got != want {
			t.Errorf("%q became %q, want %q", s, got, want)
		}
	})
}

func TestUserString(t *testing.T) {
	id := func(v int64) *int64 { return &v }
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}}}
	for want, c := range map[string]struct {
		image       string
		user, group *int64
	}{
		"app:staff": {image: "app:staff"},
		"":          {},
		"1000":      {image: "app", user: id(1000)},
		"app:7":     {image: "app:staff", group: id(7)},
		"0:7":       {group: id(7)},
		"5:6":       {image: "app", user: id(5), group: id(6)},
	} {
		pod.Spec.SecurityContext.RunAsUser, pod.Spec.SecurityContext.RunAsGroup = c.user, c.group
		if got := ocispec.UserString(pod, &corev1.Container{}, imagespec.ImageConfig{User: c.image}); got != want {
			t.Errorf("%+v: got %q, want %q", c, got, want)
		}
	}
}

// The product's default profile allows what the container's capabilities need, and no more.
func TestRuntimeDefaultFollowsCapabilities(t *testing.T) {
	allowed := func(privileged corev1.Capability) map[string]bool {
		in := base()
		in.Pod = &corev1.Pod{}
		in.Container = &corev1.Container{Name: "a", SecurityContext: &corev1.SecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}}
		if privileged != "" {
			in.Container.SecurityContext.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{privileged}}
		}
		in.Seccomp.RuntimeDefault = func(s *specs.Spec) (*specs.LinuxSeccomp, error) { return seccomp.DefaultProfile(s), nil }
		spec, err := ocispec.Build(in)
		must(t, err)
		set := map[string]bool{}
		for _, s := range spec.Linux.Seccomp.Syscalls {
			for _, name := range s.Names {
				set[name] = set[name] || s.Action == specs.ActAllow && len(s.Args) == 0
			}
		}
		return set
	}
	if plain := allowed(""); !plain["read"] || plain["mount"] || plain["reboot"] {
		t.Errorf("the default set: read %v, mount %v, reboot %v", plain["read"], plain["mount"], plain["reboot"])
	}
	// Socket families that reach the hypervisor (40) or the kernel's ciphers (38) are refused.
	in := base()
	in.Pod, in.Container = &corev1.Pod{}, &corev1.Container{Name: "a", SecurityContext: &corev1.SecurityContext{
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}}
	in.Seccomp.RuntimeDefault = func(s *specs.Spec) (*specs.LinuxSeccomp, error) { return seccomp.DefaultProfile(s), nil }
	spec, err := ocispec.Build(in)
	must(t, err)
	if families := socketFamilies(spec.Linux.Seccomp); !families[2] || families[38] || families[40] {
		t.Errorf("families of sockets that are let through: %v", families)
	}
	if admin := allowed("SYS_ADMIN"); !admin["mount"] || admin["reboot"] {
		t.Errorf("with SYS_ADMIN: mount %v, reboot %v", admin["mount"], admin["reboot"])
	}
}

// socketFamilies lists those that rules for socket(2) allow one by one.
func socketFamilies(s *specs.LinuxSeccomp) map[uint64]bool {
	found := map[uint64]bool{}
	for _, rule := range s.Syscalls {
		if !slices.Contains(rule.Names, "socket") || rule.Action != specs.ActAllow {
			continue
		}
		for _, arg := range rule.Args {
			for family := range uint64(64) {
				if arg.Op == specs.OpEqualTo && family == arg.Value || arg.Op == specs.OpLessThan && family < arg.Value ||
					arg.Op == specs.OpNotEqual && family != arg.Value {
					found[family] = true
				}
			}
		}
	}
	return found
}

// Build is a function: the same input gives the same spec, and the input stays unchanged.
func TestBuildLeavesItsInputAlone(t *testing.T) {
	in := base()
	in.Annotations = map[string]string{"a": "b"}
	in.Pod = &corev1.Pod{}
	in.Container = &corev1.Container{Name: "a", Command: []string{"/x"}}
	before, err := json.Marshal(in.Annotations)
	must(t, err)
	one, err := ocispec.Build(in)
	must(t, err)
	two, err := ocispec.Build(in)
	must(t, err)
	a, _ := json.Marshal(one)
	b, _ := json.Marshal(two)
	if string(a) != string(b) {
		t.Errorf("two builds differ:\n%s\n%s", a, b)
	}
	if after, _ := json.Marshal(in.Annotations); string(after) != string(before) {
		t.Errorf("annotations became %s", after)
	}
}
