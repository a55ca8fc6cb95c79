package ocispec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// defaultCapabilities is what a container gets without a securityContext: containerd's set.
func defaultCapabilities() []string {
	return prefixed("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT")
}

// knownCapabilities lists those of include/uapi/linux/capability.h up to Linux 5.9 (no later
// release added one).
func knownCapabilities() []string {
	return prefixed("AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE " +
		"DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN " +
		"NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT " +
		"SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM")
}

func prefixed(names string) []string {
	list := strings.Fields(names)
	for i := range list {
		list[i] = "CAP_" + list[i]
	}
	return list
}

// capabilities returns a container's capabilities. A privileged one gets all of the host's. Others
// start from the default set: add ALL, drop ALL, add names, drop names, in this order
// (containerd's). Names that the kernel does not know are left to the runtime, which warns and goes
// on.
func capabilities(sc *corev1.SecurityContext, host []string) *specs.LinuxCapabilities {
	all := host
	if len(all) == 0 {
		all = knownCapabilities()
	}
	set := map[string]bool{}
	put := func(names []string) {
		for _, n := range names {
			set[n] = true
		}
	}
	put(defaultCapabilities())
	switch {
	case isTrue(sc.Privileged):
		put(all)
	case sc.Capabilities != nil:
		add, addAll := names(sc.Capabilities.Add)
		drop, dropAll := names(sc.Capabilities.Drop)
		if addAll {
			put(all)
		}
		if dropAll {
			clear(set)
		}
		put(add)
		for _, n := range drop {
			delete(set, n)
		}
	}
	list := sorted(set)
	return &specs.LinuxCapabilities{Bounding: list, Effective: slices.Clone(list), Permitted: slices.Clone(list)}
}

// names converts to upper case with CAP_, and takes "ALL" out.
func names(list []corev1.Capability) (out []string, all bool) {
	for _, c := range list {
		name := strings.ToUpper(string(c))
		if name == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		out = append(out, name)
	}
	return out, all
}
