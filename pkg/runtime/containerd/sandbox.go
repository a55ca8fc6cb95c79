package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// sandbox is the on-disk record of a sandbox.
type sandbox struct {
	Config  runtime.SandboxConfig
	Sandbox runtime.Sandbox
	// Complete is set once StartSandbox has succeeded.
	Complete bool
}

// cleanupTime bounds the cleanup after a failed or cancelled call.
const cleanupTime = 30 * time.Second

// StartSandbox pins the namespaces, sets up the network and, for a shared PID namespace, starts its
// reaper. It first removes what an interrupted start or an earlier attempt left.
func (r *Runtime) StartSandbox(ctx context.Context, c runtime.SandboxConfig) (runtime.Sandbox, error) {
	if err := r.view.wait(ctx); err != nil {
		return runtime.Sandbox{}, err
	}
	unlock, err := r.locks.lock(ctx, "sandbox/"+string(c.Pod.UID))
	if err != nil {
		return runtime.Sandbox{}, err
	}
	defer unlock()
	if have, ok := r.view.sandbox(c.Pod.UID); ok {
		if have.Complete && have.Sandbox.Ready && have.Sandbox.Attempt == c.Attempt {
			return have.Sandbox, nil
		}
		if err := r.removeSandbox(ctx, have); err != nil {
			return runtime.Sandbox{}, err
		}
	}
	s := sandbox{Config: c, Sandbox: runtime.Sandbox{
		ID: runtime.SandboxID(c.Pod.UID, c.Attempt), Attempt: c.Attempt, HostNetwork: c.HostNetwork, CreatedAt: r.c.Now(),
	}}
	if s.Sandbox.SELinux, err = r.c.SELinux.Labels(c.SELinux); err != nil {
		return runtime.Sandbox{}, err
	}
	// The record is written first, so that a later agent finds and removes whatever a crash leaves.
	if err := r.writeSandbox(s); err != nil {
		return runtime.Sandbox{}, err
	}
	if err := r.buildSandbox(ctx, &s); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if rerr := r.removeSandbox(undo, s); rerr != nil {
			r.view.putSandbox(&s) // unready: the planner removes it
			err = fmt.Errorf("%w (cleaning up failed too: %w)", err, rerr)
		}
		return runtime.Sandbox{}, err
	}
	s.Complete, s.Sandbox.Ready = true, true
	if err := r.writeSandbox(s); err != nil {
		return runtime.Sandbox{}, err
	}
	r.view.putSandbox(&s)
	return s.Sandbox, nil
}

func (r *Runtime) buildSandbox(ctx context.Context, s *sandbox) error {
	dir := r.podDir(string(s.Config.Pod.UID))
	ns, err := pinNamespaces(dir, s.Config)
	if err != nil {
		return err
	}
	s.Sandbox.Namespaces = ns
	if !s.Config.HostNetwork {
		if s.Sandbox.IPs, err = r.c.Network.Setup(ctx, ns.Net, s.Sandbox.ID, s.Config); err != nil {
			return err
		}
	}
	if err := setSysctls(ns, s.Config.Sysctls); err != nil {
		return err
	}
	if !s.Config.ShareProcessNamespace || s.Config.HostPID {
		return nil
	}
	pid, err := r.startReaper(ctx, s)
	if err != nil {
		return fmt.Errorf("starting the reaper of the shared PID namespace: %w", err)
	}
	s.Sandbox.Namespaces.PID = runtime.NamespacePaths(dir, s.Config).PID
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return pin(fmt.Sprintf("/proc/%d/ns/pid", pid), s.Sandbox.Namespaces.PID)
}

// RemoveSandbox runs CNI DEL, even if the namespaces are gone, and unpins them.
func (r *Runtime) RemoveSandbox(ctx context.Context, uid types.UID) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	unlock, err := r.locks.lock(ctx, "sandbox/"+string(uid))
	if err != nil {
		return err
	}
	defer unlock()
	s, ok := r.view.sandbox(uid)
	if !ok {
		return unpinAll(r.podDir(string(uid)))
	}
	return r.removeSandbox(ctx, s)
}

// removeSandbox undoes buildSandbox in reverse order and deletes the record last.
func (r *Runtime) removeSandbox(ctx context.Context, s sandbox) error {
	uid := s.Config.Pod.UID
	reapers := r.view.reapers(uid)
	if s.Config.ShareProcessNamespace {
		reapers[s.Sandbox.ID] = true // the view may not have it yet
	}
	for id := range reapers {
		if err := r.endReaper(ctx, id); err != nil {
			return fmt.Errorf("removing the reaper of the shared PID namespace: %w", err)
		}
	}
	dir := r.podDir(string(uid))
	if !s.Config.HostNetwork {
		if err := r.c.Network.Teardown(ctx, filepath.Join(dir, netFile), s.Sandbox.ID, s.Config); err != nil {
			return err
		}
	}
	if err := unpinAll(dir); err != nil {
		return err
	}
	if err := os.Remove(r.sandboxFile(uid)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing sandbox record: %w", err)
	}
	r.view.dropSandbox(uid)
	r.c.SELinux.Release(s.Sandbox.SELinux)
	return nil
}

func (r *Runtime) sandboxDir() string { return filepath.Join(r.c.StateDir, "sandboxes") }

func (r *Runtime) sandboxFile(uid types.UID) string {
	return filepath.Join(r.sandboxDir(), string(uid)+".json")
}

// writeSandbox replaces the record and syncs it to disk.
func (r *Runtime) writeSandbox(s sandbox) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := r.sandboxFile(s.Config.Pod.UID)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing sandbox record: %w", err)
	}
	if err := hostfs.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("writing sandbox record: %w", err)
	}
	return nil
}

// readSandboxes reads all records. A sandbox whose record is unreadable counts as unready; its
// pod's UID and the namespace path are enough to remove it.
func (r *Runtime) readSandboxes() ([]*sandbox, error) {
	entries, err := os.ReadDir(r.sandboxDir())
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading sandbox records: %w", err)
	}
	var all []*sandbox
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		s := &sandbox{}
		b, err := os.ReadFile(filepath.Join(r.sandboxDir(), e.Name()))
		if err == nil {
			err = json.Unmarshal(b, s)
		}
		if err == nil && string(s.Config.Pod.UID) != uid {
			err = errors.New("it belongs to another pod")
		}
		if err != nil {
			r.c.Logger.Warn("Sandbox record cannot be read, the sandbox counts as not ready", "file", e.Name(), "err", err)
			s = &sandbox{Config: runtime.SandboxConfig{Pod: runtime.PodRef{UID: types.UID(uid)}}}
			s.Sandbox.ID = runtime.SandboxID(types.UID(uid), 0)
		}
		s.Sandbox.Ready = s.Complete && allPinned(s.Sandbox.Namespaces)
		all = append(all, s)
	}
	return all, nil
}

// loadSandboxes reads the records once; from then on only this Runtime writes them.
func (r *Runtime) loadSandboxes() error {
	if r.view.loaded() {
		return nil
	}
	all, err := r.readSandboxes()
	if err != nil {
		return err
	}
	for _, s := range all {
		if _, ok := r.view.sandbox(s.Config.Pod.UID); !ok {
			r.c.SELinux.Reserve(s.Sandbox.SELinux)
			r.view.putSandbox(s)
		}
	}
	return nil
}
