package ocispec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// hidePaths masks files that reveal or change the host, unless the container is privileged.
// procMount Unmasked unmasks those of procfs.
func hidePaths(spec *specs.Spec, n Node, sc *corev1.SecurityContext) {
	if isTrue(sc.Privileged) {
		return
	}
	l := spec.Linux
	if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		l.MaskedPaths = []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
			"/sys/devices/virtual/powercap", "/sys/firmware",
		}
		l.MaskedPaths = append(l.MaskedPaths, n.MaskedPaths...)
		l.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" }) {
		l.ReadonlyPaths = append(l.ReadonlyPaths, "/sys")
	}
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
	case isTrue(sc.Privileged): // a filter would undo what privileged allows
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

// AppArmor returns the profile that a container asks for, or nil: from its own field, from the
// older annotation (which static pods may still use), or from its pod's field.
func AppArmor(pod *corev1.Pod, c *corev1.Container) *corev1.AppArmorProfile {
	if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
		return c.SecurityContext.AppArmorProfile
	}
	switch value := pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]; {
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
		name := strings.TrimPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.AppArmorProfile
	}
	return nil
}

// appArmorProfile returns the name of a loaded profile, or "" for none. A container that asks for
// nothing gets the default profile, unless it is privileged; a profile named explicitly applies to
// privileged containers too.
func appArmorProfile(in Input, sc *corev1.SecurityContext) (string, error) {
	p := sc.AppArmorProfile
	switch {
	case p != nil && p.Type == corev1.AppArmorProfileTypeUnconfined:
		return "", nil
	case in.Node.AppArmor == "" && p == nil:
		return "", nil
	case in.Node.AppArmor == "":
		return "", errors.New("Cannot enforce AppArmor: AppArmor is not enabled on the host") //nolint:staticcheck // kubelet's words
	case p == nil || p.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		if isTrue(sc.Privileged) {
			return "", nil
		}
		return in.Node.AppArmor, nil
	case p.Type == corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == "" {
			return "", errors.New("AppArmor profile type Localhost needs a localhostProfile")
		}
		return *p.LocalhostProfile, nil
	default:
		return "", fmt.Errorf("unknown AppArmor profile type %q: it may be RuntimeDefault, Localhost or Unconfined", p.Type)
	}
}

// SELinuxOptions returns the options of the container, else of its pod; nil if neither has any. c
// may be nil.
func SELinuxOptions(pod *corev1.Pod, c *corev1.Container) *corev1.SELinuxOptions {
	if c != nil && c.SecurityContext != nil && c.SecurityContext.SELinuxOptions != nil {
		return c.SecurityContext.SELinuxOptions
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.SELinuxOptions
	}
	return nil
}
