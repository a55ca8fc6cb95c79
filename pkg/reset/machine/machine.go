// Package machine is WIRING: it puts a reset.Resetter together for this machine, by the
// configuration that the daemon runs with.
package machine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/reset"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/podnet"
	"github.com/nodeagent/nodeagent/pkg/runtime/stack"
	"github.com/nodeagent/nodeagent/pkg/server"
)

// Config says what is taken off. All fields but Settings and Env are required.
type Config struct {
	Config  *config.Config
	Options reset.Options
	// Unit is the daemon's; Settings and Env are the files that join wrote, "" for none.
	Unit, Settings, Env string
	Log                 *slog.Logger
	Now                 func() time.Time
	Report              func(reset.Event)
}

// New makes the Resetter. It contacts nobody and changes nothing.
func New(c Config) (*reset.Resetter, error) {
	if c.Config == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("making a resetter of this machine: a field is missing")
	}
	own := *c.Config
	// pods of CRI are left alone, and keep nobody from removing what is the agent's
	own.Runtime.AllowForeignPods = true
	containers, err := stack.New(&own, c.Log, c.Now)
	if err != nil {
		return nil, err
	}
	host, err := newPods(&own, containers, c.Log)
	if err != nil {
		return nil, err
	}
	groups, err := cgroups(&own, c.Log)
	if err != nil {
		return nil, err
	}
	p, id := own.Paths, own.Identity
	return reset.New(reset.Config{
		Options: c.Options,
		Places: reset.Places{
			Root: p.Root, Run: p.Run, PodLogs: p.PodLogs, ContainerLogs: p.ContainerLogs, StatusSocket: p.StatusSocket,
			CNICache: own.Network.CNICacheDir, Kubeconfig: id.Kubeconfig, ClusterCA: id.ClusterCA, CertDir: id.CertDir,
			Settings: c.Settings, Env: c.Env,
		},
		Unit: c.Unit, Daemon: unit.New(c.Unit),
		Answers:    func(ctx context.Context) bool { return server.Listens(ctx, p.StatusSocket) },
		Containerd: own.Runtime.Address, Records: containers.Runtime, Remover: containers.Runtime,
		Network: network{containers.Network}, Pods: host, Pump: containers.Pump, Rules: rules(&own, c.Log),
		Cgroups: groups, Now: c.Now, Report: c.Report,
	})
}

// rules finds those of every proxy mode.
func rules(c *config.Config, log *slog.Logger) func(context.Context) ([]reset.Rules, error) {
	return func(ctx context.Context) (all []reset.Rules, err error) {
		found, err := modes.Find(ctx, modes.Config{Proxy: c.Proxy, Log: log})
		for _, i := range found {
			all = append(all, reset.Rules{What: i.What, Remove: i.Remove})
		}
		return all, err
	}
}

// network releases what a sandbox has whose record is gone.
type network struct{ *podnet.Network }

// Release implements reset.Network.
func (n network) Release(ctx context.Context, netns, id string) error {
	return n.Teardown(ctx, netns, id, runtime.SandboxConfig{})
}

// noObjects is for parts that read API objects to make something; here they only remove.
type noObjects struct{ volume.Objects }

// Forget implements volume.Objects.
func (noObjects) Forget(types.UID) {}

// pods implements reset.Pods.
type pods struct {
	builder *containerconfig.Builder
	volumes *volumeset.Set
}

func newPods(c *config.Config, s *stack.Stack, log *slog.Logger) (*pods, error) {
	kinds, err := plugins.New(noObjects{})
	if err != nil {
		return nil, err
	}
	volumes, err := volumeset.New(volumeset.Config{Root: c.Paths.Root, Plugins: kinds})
	if err != nil {
		return nil, err
	}
	groups, err := newTree(c, c.Cgroups.Driver == "systemd", log)
	if err != nil {
		return nil, err
	}
	builder, err := containerconfig.New(containerconfig.Config{
		Root: c.Paths.Root, Run: c.Paths.Run, PodLogs: c.Paths.PodLogs, Volumes: volumes, Users: s.Runtime, Objects: noObjects{},
		Cgroups: groups, Node: func() containerconfig.Node { return containerconfig.Node{} }, Log: log,
	})
	return &pods{builder, volumes}, err
}

// Residue implements reset.Pods.
func (p *pods) Residue(ctx context.Context) ([]types.UID, error) { return p.builder.Leftovers(ctx) }

// Remove implements reset.Pods.
func (p *pods) Remove(ctx context.Context, uid types.UID) error {
	if err := p.builder.Release(uid); err != nil {
		return err
	}
	if err := p.volumes.Unmount(ctx, uid); err != nil {
		return err
	}
	return p.builder.Cleanup(ctx, runtime.PodRef{UID: uid})
}

func newTree(c *config.Config, systemd bool, log *slog.Logger) (*cgroup.Tree, error) {
	return cgroup.New(cgroup.Config{
		Layout: cgroup.Layout{Root: c.Cgroups.Root, Systemd: systemd, PerQOS: c.Cgroups.PerQOS}, Owner: c.Paths.Root, Log: log,
	})
}

// cgroups are those of each driver: the configuration that named the one in use may be gone.
func cgroups(c *config.Config, log *slog.Logger) ([]reset.Cgroup, error) {
	var all []reset.Cgroup
	for _, systemd := range []bool{false, true} {
		if _, err := os.Stat("/run/systemd/system"); systemd && err != nil {
			continue
		}
		t, err := newTree(c, systemd, log)
		if err != nil {
			return nil, err
		}
		all = append(all, group{t})
	}
	return all, nil
}

// group implements reset.Cgroup.
type group struct{ *cgroup.Tree }

func (g group) String() string { return filepath.Join("/", g.Dir(g.Kubepods())) }

// Remove implements reset.Cgroup.
func (g group) Remove(ctx context.Context, keep map[types.UID]bool) (bool, error) {
	var all error
	uids, err := g.Pods()
	all = errors.Join(all, err)
	for _, uid := range uids {
		others, err := g.Others(uid)
		all = errors.Join(all, err)
		if err == nil && keep != nil && !keep[uid] && !others {
			all = errors.Join(all, g.RemovePod(ctx, uid))
		}
	}
	removed, err := g.Tree.Remove()
	return removed, errors.Join(all, err)
}
