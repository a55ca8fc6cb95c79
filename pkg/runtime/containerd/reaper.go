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
// holds only that program. Its id is the sandbox's, so that a later agent finds it.
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

// reaperRoot creates the root folder that all reapers share.
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

// cgroupsPath names a cgroup below parent in the form of the cgroup driver in use.
func (r *Runtime) cgroupsPath(parent, id string) string {
	switch {
	case parent == "":
		return ""
	case r.c.SystemdCgroup:
		return filepath.Base(parent) + ":nodeagent:" + id
	}
	return filepath.Join(parent, id)
}

// checkReapers marks sandboxes unready whose shared PID namespace has lost its reaper.
func (r *Runtime) checkReapers() {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	for uid, s := range r.view.sandboxes {
		if s.Sandbox.Namespaces.PID == "" || !s.Sandbox.Ready {
			continue
		}
		if c := r.view.containers[s.Sandbox.ID]; c == nil || c.c.State == runtime.Exited {
			s.Sandbox.Ready = false
			r.view.notify(uid)
		}
	}
}

// reaperEnded marks the sandbox unready whose shared PID namespace lost its first process: the
// kernel refuses to start new processes in such a namespace.
func (r *Runtime) reaperEnded(c container) {
	s, ok := r.view.sandbox(c.ref.UID)
	if !ok || s.Sandbox.ID != c.c.ID {
		return
	}
	s.Sandbox.Ready = false
	r.view.putSandbox(&s)
}

func (r *Runtime) endReaper(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	return r.removeContainer(ctx, id)
}
