package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// startReaper starts process 1 of a pod's shared PID namespace, as a container whose root folder
// has nothing but that program. Its id is the sandbox's, so that it is found again.
func (r *Runtime) startReaper(ctx context.Context, s *sandbox) (pid int, err error) {
	if r.c.Reaper == "" {
		return 0, errors.New("the path of nodeagent-pump is not configured")
	}
	root, err := r.reaperRoot()
	if err != nil {
		return 0, err
	}
	labels := map[string]string{
		labelUID: string(s.Config.Pod.UID), labelNamespace: s.Config.Pod.Namespace, labelPod: s.Config.Pod.Name,
		labelAttempt: strconv.Itoa(s.Config.Attempt), labelSandbox: s.Sandbox.ID,
	}
	record := containers.Container{ID: s.Sandbox.ID, Labels: labels}
	c := &container{ref: s.Config.Pod, c: runtime.Container{
		ID: s.Sandbox.ID, Attempt: s.Config.Attempt, SandboxID: s.Sandbox.ID, State: runtime.Created, CreatedAt: r.c.Now(),
	}}
	l := launch{record: record, handler: s.Config.RuntimeHandler, spec: r.reaperSpec(s, root)}
	if err := r.launch(ctx, c, &l); err != nil {
		return 0, err
	}
	return int(l.pid), nil
}

// reaperRoot makes the root folder that all reapers share.
func (r *Runtime) reaperRoot() (string, error) {
	root := filepath.Join(r.c.RunDir, "reaper")
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		return "", fmt.Errorf("making the root folder of the reaper: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "reap"), os.O_CREATE|os.O_RDONLY, 0o555)
	if err != nil {
		return "", fmt.Errorf("making the root folder of the reaper: %w", err)
	}
	return root, f.Close()
}

func (r *Runtime) reaperSpec(s *sandbox, root string) *specs.Spec {
	ns := s.Sandbox.Namespaces
	namespaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}
	for kind, path := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: ns.Net, specs.IPCNamespace: ns.IPC, specs.UTSNamespace: ns.UTS,
	} {
		if path != "" {
			namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	shares := uint64(2)
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{"/reap", "reap"}, Cwd: "/", NoNewPrivileges: true,
			User: specs.User{UID: 65535, GID: 65535}, Env: []string{"GOGC=50", "GOMAXPROCS=1"},
		},
		Root: &specs.Root{Path: root, Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/reap", Type: "bind", Source: r.c.Reaper, Options: []string{"bind", "ro"}},
		},
		Annotations: map[string]string{groupAnnotation: s.Sandbox.ID},
		Linux: &specs.Linux{
			Namespaces:  namespaces,
			CgroupsPath: r.cgroupsPath(s.Config.CgroupParent, s.Sandbox.ID),
			Resources:   &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
		},
	}
}

// cgroupsPath is the OCI runtime's way to name a cgroup below parent, for the cgroup driver in use.
func (r *Runtime) cgroupsPath(parent, id string) string {
	switch {
	case parent == "":
		return ""
	case r.c.SystemdCgroup:
		return filepath.Base(parent) + ":nodeagent:" + id
	}
	return filepath.Join(parent, id)
}
