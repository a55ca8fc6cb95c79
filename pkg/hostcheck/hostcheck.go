// Package hostcheck is WIRING: the checks of preflight and join that need concrete parts,
// containerd and the proxy's backends. It changes nothing on the machine.
package hostcheck

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
)

// New lists what a machine must have for an agent with this configuration.
func New(c *config.Config) bootstrap.HostConfig {
	h := bootstrap.HostConfig{
		NodeName: c.Node.Name, CNIBinDirs: c.Network.CNIBinDirs, CNIConfDir: c.Network.CNIConfDir,
		Listen:     []netip.AddrPort{c.Server.Listen, c.Server.Healthz, c.Proxy.Healthz, c.Proxy.Metrics},
		FailSwapOn: c.Node.FailSwapOn, FailCgroupV1: c.Cgroups.FailV1, SystemdCgroups: c.Cgroups.Driver == "systemd",
	}
	if c.Pods.Enabled {
		h.More = append(h.More, containerdChecks(c)...)
	}
	h.More = append(h.More, networkCheck(c))
	if mode := modes.Programmed(c.Proxy.Mode); mode.HostCheck != nil {
		h.More = append(h.More, bootstrap.HostCheck{
			Name: string(mode.Name), Remedy: mode.Remedy + " (or run without the services half: --proxier=off)",
			Run: func(ctx context.Context) (string, error) {
				found, err := mode.HostCheck(ctx)
				if fallback := c.Proxy.Mode.Fallback(); fallback != "" && err == nil {
					found += "; " + fallback
				}
				return found, err
			},
		})
	}
	return h
}

// networkCheck notes kernel parameters that pods' networks need. It never fails: a CNI plugin may
// set them itself, or not need them.
func networkCheck(c *config.Config) bootstrap.HostCheck {
	return bootstrap.HostCheck{Name: "network", Run: func(context.Context) (string, error) {
		wanted := sysctl.Settings{IPv4: true, Bridged: true}
		for _, ip := range c.Node.IPs {
			wanted.IPv6 = wanted.IPv6 || ip.Is6()
		}
		var notes []string
		for _, o := range sysctl.Apply(sysctl.Plan(wanted), sysctl.Kernel("/")) {
			if o.Err != nil {
				notes = append(notes, "unless the CNI plugin sets it: "+o.Err.Error())
			}
		}
		return strings.Join(notes, "; "), nil
	}}
}

// oldestContainerd is the oldest major version that is tested.
const oldestContainerd = 2

func containerdChecks(c *config.Config) []bootstrap.HostCheck {
	// The first check asks; the others use its answer.
	var facts containerd.Facts
	return []bootstrap.HostCheck{
		{
			Name: "containerd", Remedy: "systemctl enable --now containerd, version 2.0 or newer   (or give --containerd-address)",
			Run: func(ctx context.Context) (string, error) {
				var err error
				if facts, err = containerd.Probe(ctx, c.Runtime.Address); err != nil {
					return "", err
				}
				var major int
				if _, err := fmt.Sscanf(strings.TrimPrefix(facts.Version, "v"), "%d.", &major); err == nil && major < oldestContainerd {
					return "", fmt.Errorf("containerd %s is too old", facts.Version)
				}
				return "containerd " + facts.Version, nil
			},
		},
		{
			Name: "foreign-pods", Remedy: "systemctl disable --now kubelet; crictl rmp -fa   (or give --allow-foreign-pods)",
			Run: func(context.Context) (string, error) {
				if len(facts.Foreign) == 0 || c.Runtime.AllowForeignPods {
					return "", nil
				}
				return "", &containerd.ForeignError{Pods: facts.Foreign}
			},
		},
		{
			Name: "snapshotter", Remedy: "load the kernel module overlay (modprobe overlay), put containerd's folder on a file system " +
				"that overlayfs can lie on, and restart containerd   (or give --snapshotter)",
			Run: func(context.Context) (string, error) {
				why, there := facts.Snapshotters[c.Runtime.Snapshotter]
				switch {
				case facts.Version == "":
					return "", bootstrap.NotChecked("containerd does not answer")
				case !there:
					return "", fmt.Errorf("containerd has no snapshotter %q", c.Runtime.Snapshotter)
				case why != "":
					return "", fmt.Errorf("containerd's snapshotter %q does not work: %s", c.Runtime.Snapshotter, why)
				}
				return c.Runtime.Snapshotter, nil
			},
		},
	}
}
