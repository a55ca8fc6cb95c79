package ocispec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// defaultPath is PATH if the image does not set it.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func process(in Input, sc *corev1.SecurityContext) (*specs.Process, error) {
	args, err := arguments(in)
	if err != nil {
		return nil, err
	}
	adj := max(qos.OOMScoreAdj(in.Pod, in.Container, in.Node.MemoryCapacity), in.Node.MinOOMScoreAdj)
	return &specs.Process{
		Terminal: in.Container.TTY,
		User: specs.User{
			UID:            in.User.UID,
			GID:            in.User.GID,
			AdditionalGids: groups(in),
		},
		Args:            args,
		Env:             environment(in),
		Cwd:             workingDir(in),
		Capabilities:    capabilities(sc, in.Node.Capabilities),
		NoNewPrivileges: sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		OOMScoreAdj:     &adj,
	}, nil
}

// arguments returns the command line: the spec's command replaces the image's entrypoint and cmd,
// its args replace only cmd.
func arguments(in Input) ([]string, error) {
	lookup := Lookup(in.Env)
	entrypoint, cmd := expandAll(in.Container.Command, lookup), expandAll(in.Container.Args, lookup)
	if len(entrypoint) == 0 {
		entrypoint = in.Image.Entrypoint
		if len(cmd) == 0 {
			cmd = in.Image.Cmd
		}
	}
	args := slices.Concat(entrypoint, cmd)
	if len(args) == 0 {
		return nil, fmt.Errorf("building spec of container %q: no command specified: neither the container nor its image has one",
			in.Container.Name)
	}
	return args, nil
}

func expandAll(list []string, lookup func(string) (string, bool)) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, Expand(s, lookup))
	}
	return out
}

// environment merges, each over the one before: the image's, TERM and HOSTNAME, the pod spec's. A
// name keeps the place of its first value.
func environment(in Input) []string {
	var env []string
	if !slices.ContainsFunc(in.Image.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, defaultPath)
	}
	env = append(env, in.Image.Env...)
	if in.Container.TTY {
		env = append(env, "TERM=xterm")
	}
	if in.Hostname != "" {
		env = append(env, "HOSTNAME="+in.Hostname)
	}
	place := map[string]int{}
	out := make([]string, 0, len(env)+len(in.Env))
	for _, e := range slices.Concat(env, in.Env) {
		name, _, _ := strings.Cut(e, "=")
		if i, seen := place[name]; seen {
			out[i] = e
			continue
		}
		place[name] = len(out)
		out = append(out, e)
	}
	return out
}

// SetEnv sets one "NAME=value" in a list, in place of an earlier value.
func SetEnv(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	for i, e := range env {
		if strings.HasPrefix(e, name+"=") {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

func workingDir(in Input) string {
	dir := in.Container.WorkingDir
	if dir == "" {
		dir = in.Image.WorkingDir
	}
	return path.Join("/", dir)
}

// groups returns, without repeats, the primary group, the user's groups in the image's /etc/group
// (unless the policy is Strict), fsGroup and supplementalGroups.
func groups(in Input) []uint32 {
	list := []uint32{in.User.GID}
	psc := in.Pod.Spec.SecurityContext
	if psc == nil || psc.SupplementalGroupsPolicy == nil || *psc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyMerge {
		list = append(list, in.User.Groups...)
	}
	if psc != nil {
		if psc.FSGroup != nil {
			list = append(list, uint32(*psc.FSGroup))
		}
		for _, g := range psc.SupplementalGroups {
			list = append(list, uint32(g))
		}
	}
	seen := map[uint32]bool{}
	return slices.DeleteFunc(list, func(g uint32) bool {
		double := seen[g]
		seen[g] = true
		return double
	})
}

// checkNonRoot refuses to run a runAsNonRoot container as root, with kubelet's messages.
func checkNonRoot(in Input, sc *corev1.SecurityContext) error {
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)",
		fmt.Sprintf("%s_%s(%s)", in.Pod.Name, in.Pod.Namespace, in.Pod.UID), in.Container.Name)
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	name, _, _ := cut(in.Image.User)
	if name != "" && !numeric(name) {
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, where)
	}
	if in.User.UID == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

func cut(user string) (name, group string, found bool) { return strings.Cut(user, ":") }

func numeric(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// StopSignal is the pod's stop signal, or else the image's.
func StopSignal(c *corev1.Container, image imagespec.ImageConfig) string {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return string(*c.Lifecycle.StopSignal)
	}
	return image.StopSignal
}
