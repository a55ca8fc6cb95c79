package containerconfig_test

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A disk is attached after the agent has started: a privileged container that starts later gets it.
func TestDevicesAreThoseOfTheStart(t *testing.T) {
	b := newBed(t)
	there := []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
	b.node.Devices = func() ([]specs.LinuxDevice, error) { return slices.Clone(there), nil }
	pod := podFrom(t, `
metadata: {name: p, namespace: shop, uid: u1}
spec:
  containers:
  - {name: all, image: app, securityContext: {privileged: true}}
  - {name: none, image: app}
`)
	devices := func(name string, attempt int) (paths []string) {
		c, err := b.start(t, pod, name, attempt)
		must(t, err)
		for _, d := range c.Spec.Linux.Devices {
			paths = append(paths, d.Path)
		}
		return paths
	}
	if got := devices("all", 0); !slices.Equal(got, []string{"/dev/sda"}) {
		t.Errorf("the first start has %v", got)
	}
	there = append(there, specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229})
	if got := devices("all", 1); !slices.Equal(got, []string{"/dev/sda", "/dev/fuse"}) {
		t.Errorf("the second start has %v", got)
	}
	if got := devices("none", 0); len(got) > 0 {
		t.Errorf("a container that is not privileged has %v", got)
	}
}
