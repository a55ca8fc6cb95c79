package reset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// Places are the agent's files and folders.
type Places struct {
	// Root, Run, PodLogs, ContainerLogs and StatusSocket are those of config.Paths.
	Root, Run, PodLogs, ContainerLogs, StatusSocket string
	// CNICache is libcni's result cache.
	CNICache string
	// Kubeconfig, ClusterCA and CertDir are the identity.
	Kubeconfig, ClusterCA, CertDir string
	// Settings and Env are the files that join wrote; "": none.
	Settings, Env string
}

// envMark is in an environment file that join wrote.
const envMark = "Written by nodeagent join"

// observe asks every role what there is. The error is of what would make the plan wrong; that
// containerd does not answer is part of what was observed.
func (r *Resetter) observe(ctx context.Context) (Observed, error) {
	o := Observed{Unit: r.c.Unit}
	var err error
	if o.Active, o.Enabled, err = r.c.Daemon.Running(ctx); err != nil {
		return o, err
	}
	if o.Active || r.c.Answers(ctx) {
		o.Answers = r.c.Places.StatusSocket
	}
	if err := r.observePods(ctx, &o); err != nil {
		return o, err
	}
	rules, err := r.c.Rules(ctx)
	for _, found := range rules {
		o.Rules = append(o.Rules, found.What)
	}
	if err != nil {
		o.RulesUnknown = err.Error()
	}
	for _, c := range r.c.Cgroups {
		if c.Exists() {
			o.Cgroups = append(o.Cgroups, c.String())
		}
	}
	return o, r.c.Places.observe(&o)
}

// observePods asks for pods, if there may be any: without a trace of them containerd need not even
// run.
func (r *Resetter) observePods(ctx context.Context, o *Observed) error {
	p := r.c.Places
	traces := anyBelow(filepath.Join(p.Root, "nodeagent"), filepath.Join(p.Root, "pods"), p.Run)
	if !traces && !r.c.Options.Images {
		return nil
	}
	o.Containerd = r.c.Containerd
	if err := r.askContainerd(ctx, o); err != nil {
		o.Unreachable = err.Error()
		return nil //nolint:nilerr // it is part of what was observed
	}
	below := filepath.Join(p.Run, "pods")
	var err error
	if o.Networks, err = r.c.Network.Attached(below); err != nil {
		return err
	}
	entries, err := os.ReadDir(below)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listing namespaces of pods: %w", err)
	}
	for _, e := range entries {
		o.Namespaces = append(o.Namespaces, types.UID(e.Name()))
	}
	o.Pump = exists(filepath.Join(p.Run, "pump.sock"))
	o.Residue, err = r.c.Pods.Residue(ctx)
	return err
}

func (r *Resetter) askContainerd(ctx context.Context, o *Observed) error {
	pods, err := r.c.Records.Inventory(ctx)
	if err != nil {
		return err
	}
	o.Pods = podsOf(pods)
	if o.Foreign, err = r.c.Records.Foreign(ctx); err != nil {
		return err
	}
	if r.c.Options.Images {
		images, err := r.c.Records.Images(ctx)
		if err != nil {
			return err
		}
		o.Images = imagesOf(images)
	}
	return nil
}

func anyBelow(dirs ...string) bool {
	for _, d := range dirs {
		if entries, err := os.ReadDir(d); err == nil && len(entries) > 0 {
			return true
		}
	}
	return false
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// observe finds the files and folders that there are.
func (p Places) observe(o *Observed) error {
	files := []string{p.Kubeconfig, p.Settings}
	if !exists(filepath.Join(filepath.Dir(p.ClusterCA), "ca.key")) { // else this is a control plane, and the CA its own
		files = append(files, p.ClusterCA)
	}
	if text, err := os.ReadFile(p.Env); err == nil && strings.Contains(string(text), envMark) {
		files = append(files, p.Env)
	}
	for _, pattern := range []string{
		"kubelet-client-*.pem", "kubelet-client.key.pending", "kubelet-server-*.pem", "kubelet-server.key.pending", "kubelet.crt", "kubelet.key",
	} {
		found, err := filepath.Glob(filepath.Join(p.CertDir, pattern))
		if err != nil {
			return fmt.Errorf("looking for certificates: %w", err)
		}
		files = append(files, found...)
	}
	o.Files = present(files)
	o.Folders = present([]string{filepath.Join(p.Root, "nodeagent"), p.Run})
	o.Empty = present([]string{
		p.CertDir, filepath.Dir(p.ClusterCA), filepath.Join(p.Root, "pods"), p.Root, p.PodLogs, p.ContainerLogs,
		filepath.Join(p.CNICache, "results"), filepath.Join(p.CNICache, "pending"), p.CNICache,
	})
	return nil
}

func present(paths []string) []string {
	var there []string
	for _, path := range paths {
		if path != "" && exists(path) {
			there = append(there, path)
		}
	}
	return there
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the identity: %w", err)
	}
	return nil
}

func removeFolder(dir string) error {
	err := hostfs.UnmountBelow(dir)
	if err == nil {
		err = hostfs.Remove(dir)
	}
	if err != nil {
		return fmt.Errorf("removing state: %w", err)
	}
	return nil
}

func removeEmpty(dir string) (did bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return false, nil //nolint:nilerr // gone already
	}
	err = os.Remove(dir)
	switch {
	case errors.Is(err, syscall.EBUSY): // a disk of its own is mounted there
		return false, nil
	case err != nil:
		return false, fmt.Errorf("removing an empty folder: %w", err)
	}
	return true, nil
}
