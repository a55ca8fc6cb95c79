// Package stack is WIRING: it puts together what runs containers by one configuration: containerd,
// the network of its sandboxes and the log pump. The agent runs pods on it, and a reset removes
// them from it.
package stack

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/runtime/podnet"
	"github.com/nodeagent/nodeagent/pkg/runtime/selinux"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// Stack is what runs containers.
type Stack struct {
	Pump    *logpump.Client
	Network *podnet.Network
	Runtime *containerd.Runtime
}

// New makes the parts. It contacts nobody.
func New(c *config.Config, log *slog.Logger, now func() time.Time) (*Stack, error) {
	pump, err := logpump.New(logpump.Config{
		Program: c.Paths.Pump, Socket: filepath.Join(c.Paths.Run, "pump.sock"), Build: version.Agent(),
		MaxSize: c.Runtime.LogMaxSize, MaxFiles: c.Runtime.LogMaxFiles, Logger: log,
		Place: func(ctx context.Context, pid int) error {
			return unit.OwnScope(ctx, "nodeagent-pump", "Log pump of nodeagent", pid)
		},
	})
	if err != nil {
		return nil, err
	}
	network, err := podnet.New(podnet.Config{
		ConfDir: c.Network.CNIConfDir, BinDirs: c.Network.CNIBinDirs, CacheDir: c.Network.CNICacheDir, Logger: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	handlers := map[string]containerd.Handler{}
	for name, h := range c.Runtime.Handlers {
		handlers[name] = containerd.Handler{Type: h.Type, Binary: h.Binary}
	}
	runtime, err := containerd.New(containerd.Config{
		Address: c.Runtime.Address, Namespace: c.Runtime.Namespace, Snapshotter: c.Runtime.Snapshotter, Handlers: handlers,
		SystemdCgroup: c.Cgroups.Driver == "systemd", StateDir: filepath.Join(c.Paths.Root, "nodeagent"), RunDir: c.Paths.Run,
		LogLinkDir: c.Paths.ContainerLogs, CertsDir: c.Runtime.RegistryConfigDir, PullProgressDeadline: c.Images.PullProgressDeadline, Reaper: c.Paths.Pump,
		AllowForeign: c.Runtime.AllowForeignPods, Network: network, Pump: pump, SELinux: selinux.Host{}, Logger: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	return &Stack{Pump: pump, Network: network, Runtime: runtime}, nil
}
