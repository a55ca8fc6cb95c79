package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// libcni caches a network only once its whole ADD has succeeded. These notes, one file a sandbox,
// hold the request of an ADD that is in progress or has failed, so that DEL can use the same
// request.

func (n *Network) pendingDir() string { return filepath.Join(n.c.CacheDir, "pending") }

func (n *Network) pendingFile(sandboxID string) string {
	return filepath.Join(n.pendingDir(), sandboxID+".json")
}

// begin saves the request of an ADD that is about to run.
func (n *Network) begin(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	b, err := json.Marshal(libcni.NetworkAttachment{
		ContainerID: rt.ContainerID, Network: list.Name, IfName: rt.IfName, Config: list.Bytes, NetNS: rt.NetNS,
		CniArgs: rt.Args, CapabilityArgs: rt.CapabilityArgs,
	})
	if err != nil {
		return fmt.Errorf("saving the CNI request: %w", err)
	}
	// No fsync: plugins do not sync their state either, and after a power cut the network in use is
	// a good guess.
	file := n.pendingFile(rt.ContainerID)
	err = os.MkdirAll(n.pendingDir(), 0o700)
	if err == nil {
		err = os.WriteFile(file+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		return fmt.Errorf("saving the CNI request: %w", err)
	}
	return nil
}

// complete deletes what begin has saved.
func (n *Network) complete(sandboxID string) error {
	if err := os.Remove(n.pendingFile(sandboxID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting the CNI request: %w", err)
	}
	return nil
}

// attachments returns the networks that a sandbox has or may have, found by its id and by its
// namespace's path, which helps when the id is uncertain. Without id and path it returns all.
func (n *Network) attachments(netns, sandboxID string) ([]*libcni.NetworkAttachment, error) {
	all, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("reading CNI cache %q: %w", n.c.CacheDir, err)
	}
	entries, err := os.ReadDir(n.pendingDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading CNI cache %q: %w", n.c.CacheDir, err)
	}
	for _, e := range entries {
		a := &libcni.NetworkAttachment{}
		b, err := os.ReadFile(filepath.Join(n.pendingDir(), e.Name()))
		if err != nil || json.Unmarshal(b, a) != nil || e.Name() != a.ContainerID+".json" {
			continue // the agent died before it ran a plugin, or the power failed
		}
		all = append(all, a)
	}
	type key struct{ id, network, name string }
	seen := map[key]bool{}
	var found []*libcni.NetworkAttachment
	for _, a := range all {
		k := key{a.ContainerID, a.Network, a.IfName}
		wanted := sandboxID == "" && netns == "" || a.ContainerID == sandboxID || netns != "" && a.NetNS == netns
		if wanted && !seen[k] {
			found = append(found, a)
		}
		seen[k] = true
	}
	return found, nil
}

// namespace returns the path if a namespace is pinned there; after a reboot its file is missing or
// empty. Otherwise it returns "", which in CNI means that the namespace is gone.
func namespace(path string) string {
	var s unix.Statfs_t
	if unix.Statfs(path, &s) != nil || s.Type != unix.NSFS_MAGIC {
		return ""
	}
	return path
}
