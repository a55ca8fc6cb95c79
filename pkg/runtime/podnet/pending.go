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

// libcni remembers a network once its whole ADD has succeeded. What an ADD was asked for that is
// under way, or has failed, is noted here, one file a sandbox, so that DEL can be asked with the
// same.

func (n *Network) pendingDir() string { return filepath.Join(n.c.CacheDir, "pending") }

func (n *Network) pendingFile(sandboxID string) string {
	return filepath.Join(n.pendingDir(), sandboxID+".json")
}

// begin notes an ADD that is about to be asked for.
func (n *Network) begin(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	b, err := json.Marshal(libcni.NetworkAttachment{
		ContainerID: rt.ContainerID, Network: list.Name, IfName: rt.IfName, Config: list.Bytes, NetNS: rt.NetNS,
		CniArgs: rt.Args, CapabilityArgs: rt.CapabilityArgs,
	})
	if err != nil {
		return fmt.Errorf("noting what CNI is asked for: %w", err)
	}
	// Without a flush to the disk: plugins do not flush either what they hand out, and after a
	// power cut the network in use is a good guess.
	file := n.pendingFile(rt.ContainerID)
	err = os.MkdirAll(n.pendingDir(), 0o700)
	if err == nil {
		err = os.WriteFile(file+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		return fmt.Errorf("noting what CNI is asked for: %w", err)
	}
	return nil
}

// settle forgets what begin has noted.
func (n *Network) settle(sandboxID string) error {
	if err := os.Remove(n.pendingFile(sandboxID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting what CNI was asked for: %w", err)
	}
	return nil
}

// attachments are the networks that a sandbox has, or may have: those of its id, and those of its
// namespace's path, which tells when the id is not known for sure. Without an id and a path they
// are all that there are.
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
			continue // its agent died before it could ask for anything, or the power failed
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

// namespace is the path if a namespace is there: after a reboot its file is not, or is empty. Else
// it is "", which is the specification's word for a namespace that is gone.
func namespace(path string) string {
	var s unix.Statfs_t
	if unix.Statfs(path, &s) != nil || s.Type != unix.NSFS_MAGIC {
		return ""
	}
	return path
}
