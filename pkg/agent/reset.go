package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/server"
)

// ResetConfig says what to take off a machine.
type ResetConfig struct {
	Config *config.Config
	// Stop stops the daemon and says whether there was anything to do.
	Stop func(ctx context.Context) (bool, error)
	// Images removes images too: all of containerd's namespace that no container uses.
	Images bool
	// Settings and Env are the files that join wrote; "" for none.
	Settings, Env string
	// Did is told of each thing that was done.
	Did func(what string)
	Log *slog.Logger
	Now func() time.Time
}

// Reset takes the agent off this machine: daemon, pods with all they have on the host, Service
// rules, identity, state. What is not the agent's is left, as are the kernel parameters that it
// set. It goes on after an error, and returns all of them; run again, it finds what was left.
// Where there is nothing, it does nothing.
func Reset(ctx context.Context, c ResetConfig) error {
	if c.Config == nil || c.Stop == nil || c.Did == nil || c.Log == nil || c.Now == nil {
		return errors.New("resetting: a field is missing")
	}
	did, err := c.Stop(ctx)
	if err != nil {
		return err
	}
	if _, err := server.AskStatus(ctx, c.Config.Paths.StatusSocket); err == nil {
		return fmt.Errorf("resetting: an agent still runs here (it answers at %s): stop it first (its process, or its unit: systemctl stop kubelet)", c.Config.Paths.StatusSocket)
	}
	r := &reset{ResetConfig: c}
	if did {
		r.did("stopped and disabled the daemon")
	}
	if err := r.podsHalf(ctx); err != nil {
		// without containerd, records of networks and containers are all that tells what to undo:
		// they stay
		return errors.Join(err, r.rules(ctx))
	}
	return errors.Join(r.rules(ctx), r.cgroups(ctx), r.identity(), r.state())
}

type reset struct {
	ResetConfig
	anything bool               // was done
	foreign  map[types.UID]bool // pods of CRI; nil when containerd was not asked
	pods     *pods
	builder  *containerconfig.Builder
	volumes  *volumeset.Set
}

func (r *reset) did(format string, args ...any) {
	r.anything = true
	r.Did(fmt.Sprintf(format, args...))
}

// noObjects is for parts that would read API objects to make something; here they only remove.
type noObjects struct{ volume.Objects }

// Forget implements volume.Objects.
func (noObjects) Forget(types.UID) {}

// podsHalf removes pods, if there may be any: without a trace of them containerd need not even
// run.
func (r *reset) podsHalf(ctx context.Context) error {
	c := r.Config
	if !r.Images && !anyBelow(filepath.Join(c.Paths.Root, "nodeagent"), filepath.Join(c.Paths.Root, "pods"), c.Paths.Run) {
		return nil
	}
	if err := r.make(); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.pods.runtime.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			r.Log.Error("Watching containerd", "err", err)
		}
	}()
	if err := r.await(ctx); err != nil {
		return fmt.Errorf("removing pods: %w; start containerd (systemctl start containerd) and run this again", err)
	}
	all := r.removePods(ctx)
	all = errors.Join(all, r.detach(ctx), r.leftovers(ctx))
	was, err := r.pods.pump.Stop(ctx)
	if was && err == nil {
		r.did("ended the log pump")
	}
	all = errors.Join(all, err)
	if r.Images && all == nil {
		all = r.images(ctx)
	}
	return all
}

func anyBelow(dirs ...string) bool {
	for _, d := range dirs {
		if entries, err := os.ReadDir(d); err == nil && len(entries) > 0 {
			return true
		}
	}
	return false
}

// make makes the parts that know how to remove.
func (r *reset) make() error {
	c := r.Config
	beside := *c
	// what CRI runs is left alone, and does not keep anybody from removing what is ours
	beside.Runtime.AllowForeignPods = true
	r.pods = &pods{config: &beside, log: r.Log, agent: &Agent{options: Options{Now: r.Now}}}
	if err := r.pods.makeRuntime(); err != nil {
		return err
	}
	kinds, err := plugins.New(noObjects{})
	if err != nil {
		return err
	}
	if r.volumes, err = volumeset.New(volumeset.Config{Root: c.Paths.Root, Plugins: kinds}); err != nil {
		return err
	}
	groups, err := r.tree(c.Cgroups.Driver == "systemd")
	if err != nil {
		return err
	}
	r.builder, err = containerconfig.New(containerconfig.Config{
		Root: c.Paths.Root, Run: c.Paths.Run, PodLogs: c.Paths.PodLogs, Volumes: r.volumes, Users: r.pods.runtime, Objects: noObjects{},
		Cgroups: groups, Node: func() containerconfig.Node { return containerconfig.Node{} }, Log: r.Log,
	})
	return err
}

func (r *reset) tree(systemd bool) (*cgroup.Tree, error) {
	return cgroup.New(cgroup.Config{
		Layout: cgroup.Layout{Root: r.Config.Cgroups.Root, Systemd: systemd, PerQOS: r.Config.Cgroups.PerQOS}, Owner: r.Config.Paths.Root, Log: r.Log,
	})
}

// await waits for the connection to containerd.
func (r *reset) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		err := r.pods.runtime.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond): //nolint:forbidigo // a pause, not a measurement
		}
	}
}

// removePods removes containers and sandboxes. They are killed, not asked: whoever wants grace
// drains the node first.
func (r *reset) removePods(ctx context.Context) error {
	found, err := r.pods.runtime.List(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, pod := range found {
		for _, c := range pod.Containers {
			if err := r.pods.runtime.RemoveContainer(ctx, c.ID); err != nil {
				all = errors.Join(all, err)
				continue
			}
			r.did("removed container %s of pod %s/%s", c.Name, pod.Namespace, pod.Name)
		}
		if pod.Sandbox == nil {
			continue
		}
		if err := r.pods.runtime.RemoveSandbox(ctx, pod.UID); err != nil {
			all = errors.Join(all, err)
			continue
		}
		r.did("removed the sandbox of pod %s/%s and gave back its addresses", pod.Namespace, pod.Name)
	}
	return all
}

// detach gives back networks of sandboxes whose records are gone, such as after kubeadm reset.
func (r *reset) detach(ctx context.Context) error {
	dir := filepath.Join(r.Config.Paths.Run, "pods")
	attached, err := r.pods.network.Attached(dir)
	if err != nil {
		return err
	}
	var all error
	for id, netns := range attached {
		if err := r.pods.network.Teardown(ctx, netns, id, runtime.SandboxConfig{}); err != nil {
			all = errors.Join(all, err)
			continue
		}
		r.did("gave back the addresses of sandbox %.12s", id)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(all, fmt.Errorf("listing namespaces of pods: %w", err))
	}
	for _, e := range entries {
		if err := r.pods.runtime.RemoveSandbox(ctx, types.UID(e.Name())); err != nil {
			all = errors.Join(all, err)
			continue
		}
		r.did("removed the namespaces of pod %s", e.Name())
	}
	return all
}

// leftovers takes down volumes, cgroups, folders and logs of pods; those that CRI runs are
// somebody else's.
func (r *reset) leftovers(ctx context.Context) error {
	uids, err := r.builder.Leftovers(ctx)
	if err != nil {
		return err
	}
	if r.foreign, err = r.pods.runtime.Foreign(ctx); err != nil {
		return err
	}
	var all error
	for _, uid := range uids {
		if r.foreign[uid] {
			continue
		}
		err := r.volumes.Unmount(ctx, uid)
		if err == nil {
			err = r.builder.Cleanup(ctx, runtime.PodRef{UID: uid})
		}
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		r.did("removed volumes, cgroup, folder and logs of pod %s", uid)
	}
	return all
}

func (r *reset) images(ctx context.Context) error {
	found, err := r.pods.runtime.Images(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, image := range found {
		if err := r.pods.runtime.RemoveImage(ctx, image.ID); err != nil {
			all = errors.Join(all, err)
			continue
		}
		name := image.ID
		if len(image.Tags) > 0 {
			name = image.Tags[0]
		}
		r.did("removed image %s", name)
	}
	return all
}

// rules removes those of each address family. A machine without iptables has none.
func (r *reset) rules(ctx context.Context) error {
	return cleanRules(ctx, r.Config, r.Log, func(what string) { r.did("%s", what) })
}

// cgroups removes kubepods, whichever driver made it: the configuration that said so may be gone.
func (r *reset) cgroups(ctx context.Context) error {
	var all error
	for _, systemd := range []bool{false, true} {
		t, err := r.tree(systemd)
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		if systemd && !exists("/run/systemd/system") {
			continue
		}
		uids, err := t.Pods()
		all = errors.Join(all, err)
		for _, uid := range uids {
			others, err := t.Others(uid)
			all = errors.Join(all, err)
			if r.foreign != nil && !r.foreign[uid] && !others && err == nil {
				all = errors.Join(all, t.RemovePod(ctx, uid))
			}
		}
		removed, err := t.Remove()
		if removed && err == nil {
			r.did("removed cgroup %s", t.Dir(t.Kubepods()))
		}
		all = errors.Join(all, err)
	}
	return all
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// identity removes what join wrote.
func (r *reset) identity() error {
	id := r.Config.Identity
	files := []string{id.Kubeconfig, r.Settings}
	// else this is a control plane, and the CA its own
	if !exists(filepath.Join(filepath.Dir(id.ClusterCA), "ca.key")) {
		files = append(files, id.ClusterCA)
	}
	if text, err := os.ReadFile(r.Env); err == nil && strings.Contains(string(text), "Written by nodeagent join") {
		files = append(files, r.Env)
	}
	for _, pattern := range []string{"kubelet-client-*.pem", "kubelet-client.key.pending", "kubelet-server-*.pem", "kubelet-server.key.pending", "kubelet.crt", "kubelet.key"} {
		found, err := filepath.Glob(filepath.Join(id.CertDir, pattern))
		if err != nil {
			return fmt.Errorf("looking for certificates: %w", err)
		}
		files = append(files, found...)
	}
	var all error
	for _, file := range files {
		if file == "" {
			continue
		}
		switch err := os.Remove(file); {
		case err == nil:
			r.did("removed %s", file)
		case !errors.Is(err, fs.ErrNotExist):
			all = errors.Join(all, fmt.Errorf("removing the identity: %w", err))
		}
	}
	return errors.Join(all, r.dropEmpty(id.CertDir, filepath.Dir(id.ClusterCA)))
}

// state removes records and the run folder, which nothing uses by now, and folders that are empty.
func (r *reset) state() error {
	p := r.Config.Paths
	var all error
	for _, dir := range []string{filepath.Join(p.Root, "nodeagent"), p.Run} {
		if !exists(dir) {
			continue
		}
		err := hostfs.UnmountBelow(dir)
		if err == nil {
			err = hostfs.Remove(dir)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("removing state: %w", err))
			continue
		}
		r.did("removed %s", dir)
	}
	return errors.Join(all, r.dropEmpty(filepath.Join(p.Root, "pods"), p.Root, p.PodLogs, p.ContainerLogs, r.Config.Network.CNICacheDir+"/results", r.Config.Network.CNICacheDir+"/pending", r.Config.Network.CNICacheDir))
}

// dropEmpty removes folders that are empty now. Where the agent has not been, an empty folder is
// not its own.
func (r *reset) dropEmpty(dirs ...string) error {
	var all error
	for _, dir := range dirs {
		if !r.anything {
			break
		}
		entries, err := os.ReadDir(dir)
		if dir == "" || err != nil || len(entries) > 0 {
			continue
		}
		err = os.Remove(dir)
		if errors.Is(err, syscall.EBUSY) {
			continue // a disk of its own is mounted there
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("removing an empty folder: %w", err))
			continue
		}
		r.did("removed the empty folder %s", dir)
	}
	return all
}
