package summary

import (
	corev1 "k8s.io/api/core/v1"
)

// Describe fills in what the Node object says; object is nil before the node is registered.
func (n *Node) Describe(object *corev1.Node, deleted bool) {
	if deleted {
		n.Warn("the Node was deleted from the API server: it is registered again when the agent is restarted")
	}
	if object == nil {
		return
	}
	n.Registered, n.Runtime = !deleted, object.Status.NodeInfo.ContainerRuntimeVersion
	for _, a := range object.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			n.Addresses = append(n.Addresses, a.Address)
		}
	}
	for _, c := range object.Status.Conditions {
		if c.Type == corev1.NodeReady {
			n.Ready, n.Message = c.Status == corev1.ConditionTrue, c.Message
		}
	}
}

// Warn adds a warning; an empty one is left out.
func (n *Node) Warn(text string) {
	if text != "" {
		n.Warnings = append(n.Warnings, text)
	}
}

// AwaitsApproval warns of a certificate request that somebody must approve; a name of "" means that
// there is none.
func (n *Node) AwaitsApproval(what, name string) {
	if name != "" {
		n.Warn(what + " " + name + " waits for approval: kubectl certificate approve " + name)
	}
}

// Describe fills in what the pod's status says. A Reason that is set stays.
func (p *Pod) Describe(s corev1.PodStatus) {
	p.Phase, p.IP = string(s.Phase), s.PodIP
	for _, c := range s.ContainerStatuses {
		p.Total++
		p.Restarts += int(c.RestartCount)
		if c.Ready {
			p.Ready++
		}
		if c.State.Waiting != nil && p.Reason == "" {
			p.Reason = c.State.Waiting.Reason
		}
	}
}
