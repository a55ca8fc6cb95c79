package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/fsnotify/fsnotify"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// conf is the configuration folder as last read.
type conf struct {
	seen string // names, sizes and times of the files, to detect changes
	list *libcni.NetworkConfigList
	err  error
}

// probe caches the answer of CNI STATUS, which takes a process to get.
type probe struct {
	list *libcni.NetworkConfigList
	at   time.Time
	err  error
}

// probeEvery is how long an answer of CNI STATUS stays valid.
const probeEvery = 30 * time.Second

// NotReadyError says why there is no pod network, with the remedy. It is an ErrNetworkNotReady.
type NotReadyError struct {
	Dir   string
	Files []string // found in Dir, configuration files only
	Cause error
}

// Error names the folder, its files, and the first problem.
func (e *NotReadyError) Error() string {
	what := "no CNI configuration file there yet: install a network add-on, or set --cni-conf-dir"
	if len(e.Files) > 0 {
		what = "files " + strings.Join(e.Files, ", ")
	}
	if e.Cause != nil {
		what += ": " + e.Cause.Error()
	}
	return fmt.Sprintf("network is not ready: %s: %s", e.Dir, what)
}

// Unwrap makes it an ErrNetworkNotReady.
func (e *NotReadyError) Unwrap() []error { return []error{runtime.ErrNetworkNotReady, e.Cause} }

// current returns the network in use. It lists the folder on each call, which is cheap and never
// stale.
func (n *Network) current() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.c.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, &NotReadyError{Dir: n.c.ConfDir, Cause: err}
	}
	seen := fingerprint(files)
	n.mu.Lock()
	defer n.mu.Unlock()
	// a missing plugin may have been installed meanwhile
	if n.conf.seen != seen || n.conf.list == nil {
		n.conf = n.load(files)
		n.conf.seen = seen
	}
	return n.conf.list, n.conf.err
}

func fingerprint(files []string) string {
	var b strings.Builder
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// load takes the first usable file in order of name, as containerd and CRI-O do.
func (n *Network) load(files []string) conf {
	var first error
	for _, f := range files {
		list, err := n.loadFile(f)
		if err == nil {
			return conf{list: list}
		}
		if first == nil {
			first = fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
	}
	return conf{err: &NotReadyError{Dir: n.c.ConfDir, Files: base(files), Cause: first}}
}

func (n *Network) loadFile(file string) (*libcni.NetworkConfigList, error) {
	list, err := parseConf(file)
	if err != nil {
		return nil, err
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("lists no plugins")
	}
	for _, p := range list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, n.c.BinDirs); err != nil {
			return nil, fmt.Errorf("plugin %q is not in %s: install it, or set --cni-bin-dir", p.Network.Type, strings.Join(n.c.BinDirs, ":"))
		}
	}
	return list, nil
}

// parseConf reads either form: a list of plugins or a single plugin.
func parseConf(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		return libcni.NetworkConfFromFile(file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	one, err := libcni.NetworkPluginConfFromBytes(b)
	if err != nil {
		return nil, err
	}
	if one.Network.Type == "" {
		return nil, errors.New(`no "type": a list of plugins belongs in a file named .conflist`)
	}
	list, err := json.Marshal(map[string]any{"name": one.Network.Name, "cniVersion": one.Network.CNIVersion, "plugins": []json.RawMessage{one.Bytes}})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// Status returns nil if pods can be given a network. The text of its error suits the node's Ready
// condition.
func (n *Network) Status(ctx context.Context) error {
	list, err := n.current()
	if err != nil {
		return err
	}
	n.mu.Lock()
	p := n.probed
	n.mu.Unlock()
	if p.list == list && p.err == nil && n.c.Now().Sub(p.at) < probeEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	if err := n.cni.GetStatusNetworkList(ctx, list); err != nil {
		return &NotReadyError{Dir: n.c.ConfDir, Files: []string{list.Name}, Cause: fmt.Errorf("CNI STATUS: %w", err)}
	}
	n.mu.Lock()
	n.probed = probe{list: list, at: n.c.Now()}
	n.mu.Unlock()
	return nil
}

// Watch calls changed whenever the configuration folder may have changed, until ctx ends. The
// folder need not exist yet. A folder that cannot be watched is polled every 5 s.
func (n *Network) Watch(ctx context.Context, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return n.poll(ctx, nil, changed)
	}
	defer func() { _ = watcher.Close() }()
	return n.poll(ctx, watcher, changed)
}

func (n *Network) poll(ctx context.Context, watcher *fsnotify.Watcher, changed func()) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	var events <-chan fsnotify.Event
	if watcher != nil {
		events = watcher.Events
	}
	last := ""
	for {
		if watcher != nil && len(watcher.WatchList()) == 0 {
			_ = watcher.Add(n.c.ConfDir) // if it does not exist yet, the ticker tries again
		}
		files, _ := libcni.ConfFiles(n.c.ConfDir, []string{".conf", ".conflist", ".json"})
		if seen := fingerprint(files); seen != last {
			last = seen
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-events:
		}
	}
}
