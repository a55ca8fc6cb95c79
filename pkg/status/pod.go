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

// pod is what the parts of a pod's status are made from.
type pod struct {
	podplan.PodView
	want     *podplan.Want
	state    *podplan.State
	observed *podplan.Observed
	now      time.Time
}

// Pod is the status to report of a pod: of the view that podplan.Step has returned with the state;
// view.Pod is not nil. Conditions of others and resource claims stay as want.Reported has them. So
// does what the agent cannot know after a restart: readiness that was not probed yet, when
// conditions changed, the termination messages of containers whose records are gone.
//
// A phase is terminal only when no container runs any more, and then for good.
func Pod(want podplan.Want, state podplan.State, observed podplan.Observed, view podplan.PodView, now time.Time) corev1.PodStatus {
	p := pod{PodView: view, want: &want, state: &state, observed: &observed, now: now}
	s := *want.Reported.DeepCopy()
	s.ObservedGeneration = p.Pod.Generation
	if s.QOSClass == "" {
		s.QOSClass = podspec.QOS(p.Pod)
	}
	s.Phase = p.phase()
	s.Reason, s.Message = p.termination(s.Phase)
	if p.refused() {
		s.Conditions = p.conditions(s.Phase, false)
		return s
	}
	started := metav1.NewTime(state.StartTime(&want.Reported, now))
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

// podResources fills in what the pod as a whole was allocated, when it requests anything as such
// (KEP-2837), and what its cgroup has: during a resize, what the status said before.
func (p *pod) podResources(s *corev1.PodStatus) {
	r := p.Pod.Spec.Resources
	if r == nil {
		return
	}
	s.AllocatedResources = resource.PodRequests(p.Pod, resource.PodResourcesOptions{})
	if s.Resources == nil || !p.state.Resize.InProgress() {
		s.Resources = r.DeepCopy()
		s.Resources.Requests = s.AllocatedResources.DeepCopy()
	}
}

// refused says that the pod failed before the node took it in: its status has nothing but the
// termination.
func (p *pod) refused() bool {
	return p.want.Termination != nil && p.observed.Runtime.Empty() && p.want.Reported.StartTime == nil && len(p.want.Reported.ContainerStatuses) == 0
}

// termination is the pod's reason and message. Those of a pod that has ended stay.
func (p *pod) termination(phase corev1.PodPhase) (reason, message string) {
	old := p.want.Reported
	switch {
	case podspec.Terminal(old.Phase):
		return old.Reason, old.Message
	case p.Termination == nil, phase == corev1.PodSucceeded:
		return "", ""
	}
	return p.Termination.Reason, p.Termination.Message
}

// phase: see https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase.
func (p *pod) phase() corev1.PodPhase {
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
func (p *pod) lastPhase() corev1.PodPhase {
	if p.Termination != nil {
		return corev1.PodFailed
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Role == podspec.App && c.State != podplan.Succeeded || c.Role == podspec.Init && c.State == podplan.Failed {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

// initDone says that the init containers are done.
func (p *pod) initDone() bool { return p.Initialized || len(p.initPending()) == 0 }

// initPending names the init containers that are not done.
func (p *pod) initPending() []string {
	var names []string
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Role == podspec.Init && c.State != podplan.Succeeded || c.Role == podspec.Sidecar && !c.Started {
			names = append(names, c.Spec.Name)
		}
	}
	return names
}

// everRan says that an attempt of the container has run, its hook included.
func everRan(c *podplan.ContainerView) bool {
	switch {
	case c.Exit != nil || c.Previous != nil:
		return true
	case c.State == podplan.Running:
		return !c.HookPending
	}
	return c.Reported != nil && c.Reported.LastTerminationState.Terminated != nil
}

// addresses fills in those of node and pod. A pod that has ended keeps the ones it had; one that
// waits for a new sandbox has none.
func (p *pod) addresses(s *corev1.PodStatus) {
	if hosts := p.want.HostIPs; len(hosts) > 0 {
		s.HostIP, s.HostIPs = hosts[0].String(), nil
		for _, ip := range hosts {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
		}
	}
	var ips []netip.Addr
	sandbox := p.observed.Runtime.Sandbox
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
