package ocispec

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// hidePaths masks what tells about, or works on, the host, unless the container is privileged or asks for procMount Unmasked.
func hidePaths(l *specs.Linux, sc *corev1.SecurityContext) {
	if isTrue(sc.Privileged) || (sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount) {
		return
	}
	l.MaskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	l.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// confine sets seccomp and AppArmor.
func confine(spec *specs.Spec, in Input, sc *corev1.SecurityContext) error {
	profile, err := seccompProfile(spec, in, sc)
	if err != nil {
		return err
	}
	spec.Linux.Seccomp = profile
	spec.Process.ApparmorProfile, err = appArmorProfile(in, sc)
	return err
}

func seccompProfile(spec *specs.Spec, in Input, sc *corev1.SecurityContext) (*specs.LinuxSeccomp, error) {
	kind := corev1.SeccompProfileTypeUnconfined
	switch {
	case isTrue(sc.Privileged): // a filter would take away what privileged gives
	case sc.SeccompProfile != nil:
		kind = sc.SeccompProfile.Type
	case in.Seccomp.Default:
		kind = corev1.SeccompProfileTypeRuntimeDefault
	}
	switch kind {
	case corev1.SeccompProfileTypeUnconfined:
		return nil, nil
	case corev1.SeccompProfileTypeRuntimeDefault:
		if in.Seccomp.RuntimeDefault == nil {
			return nil, errors.New("seccomp profile RuntimeDefault is not available on this node")
		}
		profile, err := in.Seccomp.RuntimeDefault(spec)
		if err != nil {
			return nil, fmt.Errorf("deriving seccomp profile RuntimeDefault: %w", err)
		}
		return profile, nil
	case corev1.SeccompProfileTypeLocalhost:
		if in.Seccomp.Localhost == nil {
			return nil, errors.New("seccomp profile Localhost has no content: is localhostProfile set?")
		}
		return in.Seccomp.Localhost, nil
	default:
		return nil, fmt.Errorf("unknown seccomp profile type %q: it may be RuntimeDefault, Localhost or Unconfined", kind)
	}
}

func appArmorProfile(in Input, sc *corev1.SecurityContext) (string, error) {
	p := sc.AppArmorProfile
	if p == nil || isTrue(sc.Privileged) || p.Type == corev1.AppArmorProfileTypeUnconfined {
		return "", nil
	}
	if !in.Node.AppArmor {
		return "", errors.New("cannot enforce AppArmor: the kernel of this node does not have it")
	}
	if p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil {
		return *p.LocalhostProfile, nil
	}
	return "", fmt.Errorf("AppArmor profile type %q is not supported yet: load a profile and name it as Localhost", p.Type)
}
