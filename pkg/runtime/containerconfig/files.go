package containerconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/podfiles"
)

// nodeHostsFile is the base of /etc/hosts of a pod in the host network.
const nodeHostsFile = "/etc/hosts"

// maxNodeFile is the largest size in bytes of a node's file that is read for a pod.
const maxNodeFile = 10 << 20

// hostShm is the /dev/shm of a pod in the host's IPC namespace.
const hostShm = "/dev/shm"

// shmSize of each pod's /dev/shm in bytes.
const shmSize = 64 << 20

func (b *Builder) podDir(uid types.UID) string {
	return filepath.Join(b.config.Root, "pods", string(uid))
}

// shm is the folder that the pod's containers share as /dev/shm: the pod's tmpfs, or the host's
// with hostIPC.
func (b *Builder) shm(pod *corev1.Pod) string {
	if pod.Spec.HostIPC {
		return hostShm
	}
	return b.shmDir(pod.UID)
}

// subPaths is the folder in which the subPaths of the pod's containers are mounted.
func (b *Builder) subPaths(uid types.UID) string {
	return filepath.Join(b.podDir(uid), "volume-subpaths")
}

func (b *Builder) shmDir(uid types.UID) string {
	return filepath.Join(b.config.Run, "shm", string(uid))
}

// Names of the files and folders in a pod's folder that its containers have mounted.
const (
	hostsFile    = "etc-hosts"
	hostnameFile = "etc-hostname"
	resolvFile   = "etc-resolv.conf"
	messagesDir  = "containers"
)

// Writable lists the files and folders below the agent's root folder, other than volumes, that a
// pod's containers can write to. Their disk usage counts as the pod's.
func Writable(root string, uid types.UID) []string {
	var paths []string
	for _, name := range []string{hostsFile, hostnameFile, resolvFile, messagesDir} {
		paths = append(paths, filepath.Join(root, "pods", string(uid), name))
	}
	return paths
}

type podFiles struct{ hosts, hostname, resolv string }

// writePodFiles writes the pod's files that have changed. It writes in place, because running
// containers have them mounted.
func (b *Builder) writePodFiles(pod *corev1.Pod, ips []netip.Addr) (podFiles, error) {
	b.files.Lock()
	defer b.files.Unlock()
	dir := b.podDir(pod.UID)
	var f podFiles
	name, err := b.nodename(pod)
	if err != nil {
		return f, err
	}
	f.hostname = filepath.Join(dir, hostnameFile)
	if err := write(f.hostname, name+"\n"); err != nil {
		return f, err
	}
	f.resolv = filepath.Join(dir, resolvFile)
	resolv, err := b.resolvConf(pod)
	if err == nil {
		err = write(f.resolv, resolv)
	} else if _, missing := os.Lstat(f.resolv); missing == nil {
		// The node's file is missing for a moment, as while it is replaced: the pod keeps its copy.
		b.config.Log.Warn("Resolver file of a pod cannot be updated", "pod", podspec.Key(pod), "err", err)
		err = nil
	}
	if err != nil {
		return f, err
	}
	hosts, err := b.hosts(pod, ips)
	if err != nil || hosts == "" {
		return f, err
	}
	f.hosts = filepath.Join(dir, hostsFile)
	return f, write(f.hosts, hosts)
}

// nodename is the host name in the pod's UTS namespace.
func (b *Builder) nodename(pod *corev1.Pod) (string, error) {
	if pod.Spec.HostNetwork {
		return b.config.Node().Hostname, nil
	}
	host, err := podfiles.HostOf(pod, b.config.DNS.Domain)
	if err != nil {
		return "", err
	}
	return host.Nodename(pod.Spec.SetHostnameAsFQDN)
}

func (b *Builder) hosts(pod *corev1.Pod, ips []netip.Addr) (string, error) {
	if pod.Spec.HostNetwork {
		text, err := hostfs.ReadLinked(nodeHostsFile, maxNodeFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("reading the node's hosts file: %w", err)
		}
		return podfiles.NodeHosts(pod, string(text)), nil
	}
	if len(ips) == 0 {
		return "", nil
	}
	host, err := podfiles.HostOf(pod, b.config.DNS.Domain)
	if err != nil {
		return "", err
	}
	return podfiles.Hosts(pod, host, ips), nil
}

func (b *Builder) resolvConf(pod *corev1.Pod) (string, error) {
	dns := podfiles.DNS{
		Cluster: b.config.DNS.Servers, Domain: b.config.DNS.Domain,
		NoHost: b.config.DNS.ResolvConf == "", NodeIPs: b.config.Node().IPs,
	}
	if !dns.NoHost {
		text, err := hostfs.ReadLinked(b.config.DNS.ResolvConf, maxNodeFile)
		if err != nil {
			return "", fmt.Errorf("reading the node's resolver file (resolvConf in the configuration): %w", err)
		}
		dns.Host = string(text)
	}
	conf, warnings := podfiles.Resolv(pod, dns)
	for _, w := range warnings {
		if b.config.Warn != nil {
			b.config.Warn(pod, w.Reason, w.Message)
		}
	}
	return conf.String(), nil
}

func write(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	return hostfs.Write(file, []byte(text), 0o644)
}

// ensureShm mounts the pod's /dev/shm.
func (b *Builder) ensureShm(pod *corev1.Pod) error {
	if pod.Spec.HostIPC {
		return nil
	}
	return hostfs.MountTmpfs(b.shmDir(pod.UID), hostfs.Tmpfs{
		Size: shmSize, Mode: 0o777 | fs.ModeSticky, Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
	})
}

// localhostSeccomp reads the profile below <root>/seccomp that the container, or else its pod,
// names; nil if neither does.
func (w work) localhostSeccomp() (*specs.LinuxSeccomp, error) {
	var p *corev1.SeccompProfile
	if w.pod.Spec.SecurityContext != nil {
		p = w.pod.Spec.SecurityContext.SeccompProfile
	}
	if w.container.SecurityContext != nil && w.container.SecurityContext.SeccompProfile != nil {
		p = w.container.SecurityContext.SeccompProfile
	}
	if p == nil || p.Type != corev1.SeccompProfileTypeLocalhost {
		return nil, nil
	}
	name := ""
	if p.LocalhostProfile != nil {
		name = *p.LocalhostProfile
	}
	return loadSeccomp(filepath.Join(w.config.Root, "seccomp"), name)
}

func loadSeccomp(folder, name string) (*specs.LinuxSeccomp, error) {
	if name == "" || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("seccomp profile %q: localhostProfile must be a path below %q", name, folder)
	}
	text, err := hostfs.ReadLinked(filepath.Join(folder, name), maxNodeFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", name, err)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile %q: %w", name, err)
	}
	return &profile, nil
}
