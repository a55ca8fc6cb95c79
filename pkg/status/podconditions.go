package status

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// conditions are the agent's own, then those of others as they are. A refused pod has no condition
// of the agent's but its disruption.
func (p *pod) conditions(phase corev1.PodPhase, admitted bool) []corev1.PodCondition {
	var own []corev1.PodCondition
	if admitted {
		containers := p.containersReady(phase)
		own = append(own, p.readyToStart(), p.initialized(phase), p.ready(containers), containers,
			corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	}
	if v := p.Termination; v != nil && v.Disruption != "" {
		own = append(own, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: v.Disruption, Message: v.Message,
		})
	}
	own = append(own, p.resize(phase)...)
	out := make([]corev1.PodCondition, 0, len(own)+len(p.want.Reported.Conditions))
	for _, c := range own {
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = p.Pod.Generation
		}
		c.LastTransitionTime = metav1.NewTime(p.now)
		if old := p.reported(c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		out = append(out, c)
	}
	for _, c := range p.want.Reported.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			continue
		}
		if !slices.ContainsFunc(own, func(o corev1.PodCondition) bool { return o.Type == c.Type }) {
			out = append(out, c)
		}
	}
	return out
}

// resize are the conditions of a resize (KEP-1287), each with the generation of the pod that it is
// about.
func (p *pod) resize(phase corev1.PodPhase) []corev1.PodCondition {
	if p.Stopped || podspec.Terminal(phase) {
		return nil
	}
	var out []corev1.PodCondition
	r := &p.state.Resize
	if r.Pending.Reason != "" {
		out = append(out, corev1.PodCondition{
			Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: r.Pending.Reason, Message: r.Pending.Message,
			ObservedGeneration: r.Pending.Generation,
		})
	}
	if r.InProgress() {
		out = append(out, corev1.PodCondition{
			Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: r.Failure.Reason, Message: r.Failure.Message,
			ObservedGeneration: r.Generation,
		})
	}
	return out
}

func (p *pod) reported(kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.want.Reported.Conditions {
		if c := &p.want.Reported.Conditions[i]; c.Type == kind {
			return c
		}
	}
	return nil
}

func condition(kind corev1.PodConditionType, met bool) corev1.PodCondition {
	if met {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse}
}

func (p *pod) readyToStart() corev1.PodCondition {
	sandbox := p.observed.Runtime.Sandbox
	return condition(corev1.PodReadyToStartContainers, sandbox != nil && sandbox.Ready && !p.Stopped)
}

func (p *pod) initialized(phase corev1.PodPhase) corev1.PodCondition {
	c := condition(corev1.PodInitialized, p.initDone())
	switch {
	case phase == corev1.PodSucceeded:
		c.Status, c.Reason = corev1.ConditionTrue, "PodCompleted"
	case c.Status == corev1.ConditionFalse:
		c.Reason, c.Message = "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", p.initPending())
	}
	return c
}

func (p *pod) containersReady(phase corev1.PodPhase) corev1.PodCondition {
	c := condition(corev1.ContainersReady, false)
	switch phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	case corev1.PodPending, corev1.PodRunning, corev1.PodUnknown:
	}
	var unready []string
	for i := range p.Containers {
		one := &p.Containers[i]
		if !one.Role.Serves() || p.containerReady(one) {
			continue
		}
		unready = append(unready, one.Spec.Name)
	}
	if len(unready) == 0 {
		c.Status = corev1.ConditionTrue
		return c
	}
	c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
	return c
}

// ready is ContainersReady and the pod's readiness gates.
func (p *pod) ready(containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	for _, gate := range p.Pod.Spec.ReadinessGates {
		var message string
		switch old := p.reported(gate.ConditionType); {
		case old == nil:
			message = fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)
		case old.Status != corev1.ConditionTrue:
			message = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, old.Status)
		default:
			continue
		}
		if c.Message != "" {
			message = c.Message + ", " + message
		}
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", message
	}
	return c
}
