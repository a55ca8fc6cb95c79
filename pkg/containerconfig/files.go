package containerconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/containerconfig/podfiles"
	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// nodeHostsFile is what a pod in the host's network gets as its /etc/hosts.
const nodeHostsFile = "/etc/hosts"

// shmSize of each pod's /dev/shm in bytes.
const shmSize = 64 << 20

func (b *Builder) podDir(uid types.UID) string {
	return filepath.Join(b.config.Root, "pods", string(uid))
}

// shm is the folder that the pod's containers share as /dev/shm: a tmpfs of the pod's, or the host's with hostIPC.
func (b *Builder) shm(pod *corev1.Pod) string {
	if pod.Spec.HostIPC {
		return "/dev/shm"
	}
	return b.shmDir(pod.UID)
}

func (b *Builder) shmDir(uid types.UID) string {
	return filepath.Join(b.config.Run, "shm", string(uid))
}

type podFiles struct{ hosts, hostname, resolv string }

// writePodFiles writes those that changed; in place, as running containers have them mounted.
func (b *Builder) writePodFiles(pod *corev1.Pod, ips []netip.Addr) (podFiles, error) {
	b.files.Lock()
	defer b.files.Unlock()
	dir := b.podDir(pod.UID)
	var f podFiles
	name, err := b.nodename(pod)
	if err != nil {
		return f, err
	}
	f.hostname = filepath.Join(dir, "etc-hostname")
	if err := writeIfChanged(f.hostname, name+"\n"); err != nil {
		return f, err
	}
	resolv, err := b.resolvConf(pod)
	if err != nil {
		return f, err
	}
	f.resolv = filepath.Join(dir, "etc-resolv.conf")
	if err := writeIfChanged(f.resolv, resolv); err != nil {
		return f, err
	}
	hosts, err := b.hosts(pod, ips)
	if err != nil || hosts == "" {
		return f, err
	}
	f.hosts = filepath.Join(dir, "etc-hosts")
	return f, writeIfChanged(f.hosts, hosts)
}

// nodename is what the pod's UTS namespace says.
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
		text, err := os.ReadFile(nodeHostsFile)
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
		text, err := os.ReadFile(b.config.DNS.ResolvConf)
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

func writeIfChanged(file, text string) error {
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, []byte(text)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing a file of the pod: %w", err)
	}
	return chmod(file, 0o644)
}

// makeFile makes an empty file unless there is one.
func makeFile(file string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("making the folder of %q: %w", file, err)
	}
	handle, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("making %q: %w", file, err)
	}
	if err := handle.Close(); err != nil {
		return fmt.Errorf("making %q: %w", file, err)
	}
	return chmod(file, mode) // the mask took bits
}

func chmod(file string, mode fs.FileMode) error {
	if err := os.Chmod(file, mode); err != nil {
		return fmt.Errorf("setting mode of %q: %w", file, err)
	}
	return nil
}

// ensureShm mounts the pod's /dev/shm.
func (b *Builder) ensureShm(pod *corev1.Pod) error {
	if pod.Spec.HostIPC {
		return nil
	}
	dir := b.shmDir(pod.UID)
	if err := hostfs.MountTmpfs(dir, shmSize, 0o777); err != nil {
		return err
	}
	return chmod(dir, 0o777|fs.ModeSticky)
}

// localhostSeccomp reads the profile that the container, or else its pod, names below <root>/seccomp; nil if none.
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
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %q: %w", name, err)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile %q: %w", name, err)
	}
	return &profile, nil
}
