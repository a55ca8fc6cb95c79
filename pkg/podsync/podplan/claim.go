package podplan

import (
	"iter"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Claim is something that a pod holds on the host before its containers start and gives back after
// they have ended.
type Claim struct {
	Kind Kind
	Name string // within the pod and kind
}

// Key tells claims of a pod apart; it is the key of the claim's preparation.
func (c Claim) Key() string { return string(c.Kind) + "/" + c.Name }

// Kind of a claim.
type Kind string

// The kinds of claims; rules says how each is treated.
const (
	// Volume is one volume of the pod, with what is mounted for it: subPaths and /dev/shm, too.
	Volume Kind = "volume"
	// Cgroup is the pod's cgroup.
	Cgroup Kind = "cgroup"
	// Folder is the pod's folder and its log folder.
	Folder Kind = "folder"
)

// rule is how the planner treats the claims of one kind.
type rule struct {
	kind Kind
	// names yields the claims that a living pod needs, each of which has a preparation of its own.
	// nil: the start of the sandbox prepares the one claim of this kind.
	names func(*corev1.Pod) iter.Seq[string]
	// needs are kinds that are prepared before.
	needs []Kind
	// sandboxWaits says that the sandbox starts after the preparation; containers always do.
	sandboxWaits bool
	// first and most bound the back-off of a preparation that fails.
	first, most time.Duration
	// atDeletion says that the kind is released when the pod is deleted; else as soon as its
	// containers have ended.
	atDeletion bool
	// after are kinds that are released before.
	after []Kind
	// last says that the kind is released when nothing runs for the pod any more: its sandbox is
	// gone and no action runs.
	last bool
	// with is the kind whose release, in a deleted pod, takes this one along; "" for none.
	with Kind
	// prepare and release are the actions as text; a claim's name follows prepare.
	prepare, release string
}

// rules has one line for each kind, in the order in which they are prepared and released. A new
// kind is a line here and an implementation of podsync.Claims.
func rules() []rule {
	return []rule{
		{kind: Volume, names: volumes, first: volumeInitial, most: volumeMax, prepare: "mount volume ", release: "unmount volumes"},
		{kind: Cgroup, last: true, with: Folder, release: "remove cgroup"},
		{kind: Folder, atDeletion: true, after: []Kind{Volume}, last: true, release: "clean up"},
	}
}

// Kinds are all kinds of claims, in the order in which they are prepared.
func Kinds() []Kind {
	var kinds []Kind
	for _, r := range rules() {
		kinds = append(kinds, r.kind)
	}
	return kinds
}

// SandboxKinds are the kinds that the start of a sandbox prepares.
func SandboxKinds() []Kind {
	var kinds []Kind
	for _, r := range rules() {
		if r.names == nil {
			kinds = append(kinds, r.kind)
		}
	}
	return kinds
}

// ruleOf is the rule of a kind; of an unknown one, the zero rule.
func ruleOf(kind Kind) rule {
	for _, r := range rules() {
		if r.kind == kind {
			return r
		}
	}
	return rule{}
}

func volumes(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range pod.Spec.Volumes {
			if !yield(pod.Spec.Volumes[i].Name) {
				return
			}
		}
	}
}

// prepareClaims plans the preparation of every claim that is not prepared, and says whether the
// sandbox and the containers may start.
func (p *planner) prepareClaims() (sandbox, containers bool) {
	sandbox, containers = true, true
	for _, r := range p.rules {
		for claim, c := range p.unprepared(r) {
			containers = false
			sandbox = sandbox && !r.sandboxWaits
			if !slices.ContainsFunc(r.needs, p.lacks) {
				p.doAfter(c.Failure.until(r.first, r.most), PrepareClaim{claim})
			}
		}
	}
	return sandbox, containers
}

// unprepared yields the claims of a kind that are not prepared yet.
func (p *planner) unprepared(r rule) iter.Seq2[Claim, ClaimState] {
	return func(yield func(Claim, ClaimState) bool) {
		if r.names == nil {
			return
		}
		for name := range r.names(p.view.Pod) {
			claim := Claim{r.kind, name}
			if c := p.state.Claims[claim.Key()]; !c.Prepared && !yield(claim, c) {
				return
			}
		}
	}
}

// lacks says that a claim of this kind is not prepared yet.
func (p *planner) lacks(kind Kind) bool {
	for _, r := range p.rules {
		if r.kind != kind {
			continue
		}
		for range p.unprepared(r) {
			return true
		}
	}
	return false
}

// releaseClaims plans the release of what a stopped pod holds and need not hold any longer.
func (p *planner) releaseClaims() {
	for _, r := range p.rules {
		if p.releasable(r) {
			p.remove(ReleaseClaim{r.kind})
		}
	}
}

func (p *planner) releasable(r rule) bool {
	removed, rt := p.view.Removed, &p.observed.Runtime
	switch {
	case !p.holds(r.kind):
		return false
	case r.atDeletion && !removed, removed && r.with != "":
		return false
	case slices.ContainsFunc(r.after, p.holds):
		return false
	case r.last:
		return rt.Sandbox == nil && (!removed || rt.Empty()) && !p.running("")
	}
	return !p.running(string(r.kind) + "/") // a preparation of it
}

// holds says that the host holds claims of a kind, or of one that its release takes along.
func (p *planner) holds(kind Kind) bool {
	return slices.ContainsFunc(p.observed.Held, func(held Kind) bool {
		return held == kind || p.view.Removed && ruleOf(held).with == kind
	})
}
