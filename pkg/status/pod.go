package status

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// podView is what the parts of a pod's status are made from.
type podView struct {
	podplan.View
	want   podplan.Want
	have   podplan.Have
	memory *podplan.Memory
	now    time.Time
}

// Pod is the status to report of a pod; want.Pod is not nil. What the agent does not own in it
// (conditions of others, resource claims) is as want.Reported has it, and so is whatever the agent
// cannot know after a restart: readiness that was not probed yet, when conditions changed, the last
// words of containers whose records are gone.
//
// A phase is terminal only when no container runs any more, and then for good.
func Pod(want podplan.Want, have podplan.Have, now time.Time) corev1.PodStatus {
	p := podView{View: podplan.Look(want, have, now), want: want, have: have, memory: have.Memory, now: now}
	if p.memory == nil {
		p.memory = &podplan.Memory{}
	}
	s := *want.Reported.DeepCopy()
	s.ObservedGeneration = want.Pod.Generation
	if s.QOSClass == "" {
		s.QOSClass = podspec.QOS(want.Pod)
	}
	s.Phase = p.phase()
	s.Reason, s.Message = p.verdict(s.Phase)
	if p.refused() {
		s.Conditions = p.conditions(s.Phase, false)
		return s
	}
	started := metav1.NewTime(podplan.StartTime(want, have, now))
	s.StartTime = &started
	p.addresses(&s)
	s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = nil, nil, nil
	for i := range p.Containers {
		c := &p.Containers[i]
		one := p.container(c)
		switch c.Role {
		case podspec.Init, podspec.Sidecar:
			s.InitContainerStatuses = append(s.InitContainerStatuses, one)
		case podspec.App:
			s.ContainerStatuses = append(s.ContainerStatuses, one)
		case podspec.Ephemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, one)
		}
	}
	p.podResources(&s)
	s.Conditions = p.conditions(s.Phase, true)
	return s
}

// podResources tells what was given to the pod as a whole, where it asks for something as such
// (KEP-2837), and what its cgroup has: while that is being changed, what was told before.
func (p *podView) podResources(s *corev1.PodStatus) {
	r := p.Pod.Spec.Resources
	if r == nil {
		return
	}
	s.AllocatedResources = resource.PodRequests(p.Pod, resource.PodResourcesOptions{})
	if s.Resources == nil || !p.memory.Resize.InProgress() {
		s.Resources = r.DeepCopy()
		s.Resources.Requests = s.AllocatedResources.DeepCopy()
	}
}

// refused says that the pod failed before the node took it in: of such a pod nothing but the
// verdict is reported.
func (p *podView) refused() bool {
	return p.want.Outcome != nil && p.have.Runtime.Empty() && p.want.Reported.StartTime == nil && len(p.want.Reported.ContainerStatuses) == 0
}

// verdict is the pod's reason and message. Those of a pod that has ended stay.
func (p *podView) verdict(phase corev1.PodPhase) (reason, message string) {
	old := p.want.Reported
	switch {
	case podspec.Terminal(old.Phase):
		return old.Reason, old.Message
	case p.Verdict == nil, phase == corev1.PodSucceeded:
		return "", ""
	}
	return p.Verdict.Reason, p.Verdict.Message
}

// phase: see https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase.
func (p *podView) phase() corev1.PodPhase {
	if old := p.want.Reported.Phase; podspec.Terminal(old) {
		return old
	}
	if p.Stopped {
		return p.lastPhase()
	}
	if !p.initDone() {
		return corev1.PodPending
	}
	for i := range p.Containers {
		if c := &p.Containers[i]; c.Role == podspec.App && !everRan(c) {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

// lastPhase is the phase of a pod that has stopped: Succeeded when every app container has.
func (p *podView) lastPhase() corev1.PodPhase {
	if p.Verdict != nil {
		return corev1.PodFailed
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Role == podspec.App && c.Standing != podplan.Succeeded || c.Role == podspec.Init && c.Standing == podplan.Failed {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

// initDone says that the init containers are behind.
func (p *podView) initDone() bool { return p.Initialized || len(p.initPending()) == 0 }

// initPending names the init containers that are not through.
func (p *podView) initPending() []string {
	var names []string
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Role == podspec.Init && c.Standing != podplan.Succeeded || c.Role == podspec.Sidecar && !c.Started {
			names = append(names, c.Spec.Name)
		}
	}
	return names
}

// everRan says that an attempt of the container has run, its hook included.
func everRan(c *podplan.Container) bool {
	switch {
	case c.Exit != nil || c.Previous != nil:
		return true
	case c.Standing == podplan.Running:
		return !c.HookPending
	}
	return c.Reported != nil && c.Reported.LastTerminationState.Terminated != nil
}

// addresses fills in those of node and pod. A pod that has ended keeps the ones it had; one that
// waits for a new sandbox has none.
func (p *podView) addresses(s *corev1.PodStatus) {
	if hosts := p.want.HostIPs; len(hosts) > 0 {
		s.HostIP, s.HostIPs = hosts[0].String(), nil
		for _, ip := range hosts {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
		}
	}
	var ips []netip.Addr
	sandbox := p.have.Runtime.Sandbox
	switch {
	case p.Pod.Spec.HostNetwork:
		ips = p.want.HostIPs
	case sandbox != nil && sandbox.Ready:
		ips = sandbox.IPs
	}
	if len(ips) == 0 && p.Ends {
		return
	}
	s.PodIP, s.PodIPs = "", nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0].String()
	}
}
