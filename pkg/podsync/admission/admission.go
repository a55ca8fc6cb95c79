// Package admission is PURE: whether a pod that is bound to this node may run here beside the pods
// that already do. It repeats the scheduler's checks, because static pods never passed them and two
// schedulers may decide at the same time, and adds what only the node can judge: operating system,
// sysctls and AppArmor. Reasons and messages are kubelet's, which people search for.
package admission

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// Node is what a pod is checked against.
type Node struct {
	// Object has labels, taints and allocatable.
	Object *corev1.Node
	// OS is the node's operating system, as in GOOS.
	OS string
	// AllowedUnsafeSysctls are names, or prefixes that end in "*", beyond the safe ones.
	AllowedUnsafeSysctls []string
	// AppArmor says that the node can enforce profiles.
	AppArmor bool
}

// Admit returns why the pod may not run on the node; nil when it may. others are the pods that
// already have resources and ports of the node. static says that the pod is defined on this node,
// so that taints do not apply.
func Admit(pod *corev1.Pod, others []*corev1.Pod, node Node, static bool) *podspec.Termination {
	for _, check := range []func() *podspec.Termination{
		func() *podspec.Termination { return checkOS(pod, node) },
		func() *podspec.Termination { return checkGroups(pod, node) },
		func() *podspec.Termination { return checkResources(pod, others, node.Object) },
		func() *podspec.Termination { return checkAffinity(pod, node.Object) },
		func() *podspec.Termination { return checkPorts(pod, others) },
		func() *podspec.Termination { return checkTaints(pod, node.Object, static) },
		func() *podspec.Termination { return checkSysctls(pod, node.AllowedUnsafeSysctls) },
		func() *podspec.Termination { return checkAppArmor(pod, node.AppArmor) },
	} {
		if o := check(); o != nil {
			return o
		}
	}
	return nil
}

func predicate(name, text string) *podspec.Termination {
	return &podspec.Termination{Reason: name, Message: fmt.Sprintf("Predicate %s failed: %s", name, text)}
}

func checkOS(pod *corev1.Pod, node Node) *podspec.Termination {
	if os, labelled := pod.Labels[corev1.LabelOSStable]; labelled && os != node.OS {
		return &podspec.Termination{
			Reason:  "PodOSSelectorNodeLabelDoesNotMatch",
			Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
		}
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != node.OS {
		return &podspec.Termination{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

// checkGroups refuses supplementalGroupsPolicy Strict unless the node reports that it supports it
// (KEP-3619).
func checkGroups(pod *corev1.Pod, node Node) *podspec.Termination {
	sc, features := pod.Spec.SecurityContext, node.Object.Status.Features
	if sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != corev1.SupplementalGroupsPolicyStrict {
		return nil
	}
	if features != nil && features.SupplementalGroupsPolicy != nil && *features.SupplementalGroupsPolicy {
		return nil
	}
	return &podspec.Termination{
		Reason:  "SupplementalGroupsPolicyNotSupported",
		Message: "SupplementalGroupsPolicy=Strict is not supported in this node",
	}
}

// checkResources compares requests with what is allocatable. It skips extended resources that the
// node does not list: they are cluster-level, or allocated dynamically.
func checkResources(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *podspec.Termination {
	allocatable := node.Status.Allocatable
	if most, known := allocatable[corev1.ResourcePods]; known && int64(len(others))+1 > most.Value() {
		return outOf(corev1.ResourcePods, 1, int64(len(others)), most.Value())
	}
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	used := make(map[corev1.ResourceName]int64)
	for _, other := range others {
		for name, quantity := range resource.PodRequests(other, resource.PodResourcesOptions{}) {
			used[name] += podspec.Units(name, quantity)
		}
	}
	for _, name := range ordered(requests) {
		quantity := requests[name]
		requested := podspec.Units(name, quantity)
		most, known := allocatable[name]
		if requested == 0 || !known && isExtended(name) {
			continue
		}
		capacity := podspec.Units(name, most)
		if requested > capacity-used[name] {
			return outOf(name, requested, used[name], capacity)
		}
	}
	return nil
}

// isExtended reports whether a resource is not one of Kubernetes' own.
func isExtended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

func outOf(name corev1.ResourceName, requested, used, capacity int64) *podspec.Termination {
	return &podspec.Termination{
		Reason: "OutOf" + string(name),
		Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, requested, used, capacity),
	}
}

func checkAffinity(pod *corev1.Pod, node *corev1.Node) *podspec.Termination {
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return predicate("NodeName", "node(s) didn't match the requested node name")
	}
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !fits {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

func checkPorts(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
	wanted := hostPorts(pod)
	if len(wanted) == 0 {
		return nil
	}
	for _, other := range others {
		for _, taken := range hostPorts(other) {
			for _, port := range wanted {
				if port.conflicts(taken) {
					return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
				}
			}
		}
	}
	return nil
}

// hostPort is a port of the node that a pod uses.
type hostPort struct {
	ip       string // "" for all addresses
	protocol corev1.Protocol
	port     int32
}

func (p hostPort) conflicts(q hostPort) bool {
	return p.port == q.port && p.protocol == q.protocol && (p.ip == q.ip || p.ip == "" || q.ip == "")
}

// hostPorts lists the host ports of the pod's app containers and sidecars.
func hostPorts(pod *corev1.Pod) []hostPort {
	var found []hostPort
	for role, c := range podspec.Containers(pod) {
		if !role.Serves() {
			continue
		}
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := hostPort{ip: p.HostIP, protocol: p.Protocol, port: p.HostPort}
			if port.ip == "0.0.0.0" || port.ip == "::" {
				port.ip = ""
			}
			if port.protocol == "" {
				port.protocol = corev1.ProtocolTCP
			}
			found = append(found, port)
		}
	}
	return found
}

// checkTaints checks NoExecute taints only; the others matter to the scheduler.
func checkTaints(pod *corev1.Pod, node *corev1.Node, static bool) *podspec.Termination {
	if static {
		return nil
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectNoExecute && !tolerated(pod.Spec.Tolerations, taint) {
			return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate")
		}
	}
	return nil
}

func tolerated(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for _, t := range tolerations {
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		switch t.Operator {
		case corev1.TolerationOpExists:
			return true
		case corev1.TolerationOpEqual, "":
			if t.Key != "" && t.Value == taint.Value {
				return true
			}
		}
	}
	return false
}

// checkAppArmor refuses a pod whose profile the node cannot enforce, unless the pod already runs.
func checkAppArmor(pod *corev1.Pod, enabled bool) *podspec.Termination {
	if pod.Status.Phase != "" && pod.Status.Phase != corev1.PodPending {
		return nil
	}
	for role, c := range podspec.Containers(pod) {
		p := ocispec.AppArmor(pod, c)
		if role == podspec.Ephemeral || p == nil || p.Type == corev1.AppArmorProfileTypeUnconfined {
			continue
		}
		if !enabled {
			return appArmor("AppArmor is not enabled on the host")
		}
		if p.Type == corev1.AppArmorProfileTypeLocalhost && (p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == "") {
			return appArmor(fmt.Sprintf("invalid empty AppArmor profile name: container %q has no localhostProfile", c.Name))
		}
	}
	return nil
}

func appArmor(why string) *podspec.Termination {
	return &podspec.Termination{Reason: "AppArmor", Message: "Cannot enforce AppArmor: " + why}
}
