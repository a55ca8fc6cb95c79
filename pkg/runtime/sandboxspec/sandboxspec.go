// Package sandboxspec is PURE: it builds the configuration of a pod's sandbox from the pod and from
// what was resolved for it (cgroup, RuntimeClass handler, DNS domain). It does for a sandbox what
// ocispec does for a container.
package sandboxspec

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/podfiles"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// Annotations that limit a pod's traffic, in bits per second.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// Input is one attempt of a sandbox with everything resolved.
type Input struct {
	Pod     *corev1.Pod
	Attempt int
	// CgroupParent is the pod's cgroup in the form of the node's cgroup driver.
	CgroupParent   string
	RuntimeHandler string
	ClusterDomain  string
	// InUserNS is true if the agent runs in a user namespace, where not all groups are mapped.
	InUserNS bool
}

// Build builds the configuration. Its errors are the pod author's to fix.
func Build(in Input) (runtime.SandboxConfig, error) {
	pod := in.Pod
	c := runtime.SandboxConfig{
		Pod:                   runtime.RefOf(pod),
		Attempt:               in.Attempt,
		HostNetwork:           pod.Spec.HostNetwork,
		HostPID:               pod.Spec.HostPID,
		HostIPC:               pod.Spec.HostIPC,
		ShareProcessNamespace: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace,
		CgroupParent:          in.CgroupParent,
		Annotations:           pod.Annotations,
		RuntimeHandler:        in.RuntimeHandler,
		Sysctls:               sysctls(pod, in.InUserNS),
	}
	if o := ocispec.SELinuxOptions(pod, nil); o != nil {
		c.SELinux = runtime.SELinuxOptions{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return c, errors.New("hostUsers: false is not supported yet: remove it, or run the pod on another node")
	}
	if !pod.Spec.HostNetwork {
		host, err := podfiles.HostOf(pod, in.ClusterDomain)
		if err != nil {
			return c, err
		}
		if c.Hostname, err = host.Nodename(pod.Spec.SetHostnameAsFQDN); err != nil {
			return c, err
		}
		c.Ports = hostPorts(pod)
	}
	var err error
	if c.IngressBandwidth, err = bandwidth(pod, ingressBandwidth); err != nil {
		return c, err
	}
	c.EgressBandwidth, err = bandwidth(pod, egressBandwidth)
	return c, err
}

// sysctls returns the sysctls of the pod's namespaces. By default its users may bind any port and
// send pings, as in CRI (enable_unprivileged_ports, enable_unprivileged_icmp).
func sysctls(pod *corev1.Pod, inUserNS bool) map[string]string {
	set := map[string]string{}
	if !pod.Spec.HostNetwork {
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
		if !inUserNS { // the range has groups that are not mapped there
			set["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	if pod.Spec.SecurityContext != nil {
		for _, s := range pod.Spec.SecurityContext.Sysctls {
			set[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
		}
	}
	return set
}

// hostPorts returns the host ports of main containers and sidecars.
func hostPorts(pod *corev1.Pod) []runtime.PortMapping {
	var list []runtime.PortMapping
	for role, c := range podspec.Containers(pod) {
		if !role.Serves() {
			continue
		}
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			protocol := "tcp"
			if p.Protocol != "" {
				protocol = strings.ToLower(string(p.Protocol))
			}
			list = append(list, runtime.PortMapping{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: protocol, HostIP: p.HostIP})
		}
	}
	return list
}

// bandwidth parses one annotation; a value outside of 1k to 1P bits per second is an error.
func bandwidth(pod *corev1.Pod, key string) (int64, error) {
	text, ok := pod.Annotations[key]
	if !ok {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("reading annotation %q: %w", key, err)
	}
	if low, high := resource.MustParse("1k"), resource.MustParse("1P"); q.Cmp(low) < 0 || q.Cmp(high) > 0 {
		return 0, fmt.Errorf("reading annotation %q: %s is not within 1k to 1P bits per second", key, text)
	}
	return q.Value(), nil
}
