package podplan

import (
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// State is what the agent knows of a pod and cannot observe on the host; losing it is safe. Step
// takes one and returns the next; the zero State is that of a pod that was just heard of. Every
// moment in it is one of the agent's own clock, with its monotonic reading.
type State struct {
	FirstSeen time.Time // when the agent first heard of the pod
	// Began is when the node took the pod in; the active deadline counts from it.
	Began            time.Time
	StartReported    bool      // Began includes the API's start time
	TerminatingSince time.Time // when the pod had to end first; zero if it need not
	// Grace counts from TerminatingSince: together they are the deadline, which a later want may
	// only bring forward.
	Grace time.Duration
	// SpecGrace is the pod's own grace, for when its spec is no longer known.
	SpecGrace time.Duration
	// Exceeded says that the pod passed its activeDeadlineSeconds while it lived.
	Exceeded bool

	Claims      Table[ClaimState]   // by Claim.Key
	Images      Table[ImageState]   // by container name
	Starts      Table[FailureState] // by container name: failures to create or start an attempt
	Sandbox     FailureState        // failures to start the sandbox
	NextSandbox int                 // least attempt of the next sandbox
	Hooks       Table[HookState]    // by container id
	Stops       Table[StopState]    // by container id
	Crashes     Table[CrashState]   // by container name: restart back-off
	Ends        Table[time.Time]    // by container id: when attempts ended; restart back-offs count from it
	Removals    Table[FailureState] // by Action.Key: failures to remove something
	Resize      ResizeState
}

// Table is a map that nobody writes to: with and without return another one, so that states may
// share it.
type Table[V any] map[string]V

// with returns the table with one value set.
func (t Table[V]) with(key string, v V) Table[V] {
	out := make(Table[V], len(t)+1)
	maps.Copy(out, t)
	out[key] = v
	return out
}

// without returns the table without the keys that match; the same one if none does.
func (t Table[V]) without(match func(key string) bool) Table[V] {
	for key := range t {
		if match(key) {
			out := maps.Clone(t)
			maps.DeleteFunc(out, func(key string, _ V) bool { return match(key) })
			return out
		}
	}
	return t
}

// drop returns the table without one key.
func (t Table[V]) drop(key string) Table[V] {
	return t.without(func(k string) bool { return k == key })
}

// FailureState counts failures in a row; the zero value is none.
type FailureState struct {
	Reason, Message string
	Count           int
	At              time.Time // of the last one
	Attempt         int       // of the container, where there is one
}

// after is the state after one more try.
func (f FailureState) after(err error, fallback string, now time.Time) FailureState {
	if err == nil {
		return FailureState{}
	}
	next := FailureState{Reason: fallback, Message: err.Error(), Count: f.Count + 1, At: now}
	if known := (*podspec.ReasonError)(nil); errors.As(err, &known) {
		next.Reason = known.Reason
	}
	return next
}

// ClaimState is how far the preparation of one claim is.
type ClaimState struct {
	Prepared bool
	Failure  FailureState
}

// ImageState is the image of the attempt that is started next.
type ImageState struct {
	Ref     string
	Attempt int
	ImageID string // "" until found or pulled
	Failure FailureState
}

// of says that this is the image of an attempt.
func (s ImageState) of(ref string, attempt int) bool { return s.Ref == ref && s.Attempt == attempt }

// HookState is what is known of a container's hooks.
type HookState struct {
	PostStartDone, PreStopDone bool
	PostStartError             string
}

// StopState is how far the end of a container is.
type StopState struct {
	Since    time.Time // when the container first had to end: its grace counts from here
	TermSent time.Time
	KillSent time.Time
	Message  string
	Grace    time.Duration
	// Replace says that the container ends because its spec or resources changed: it is started
	// again whatever its restart policy says.
	Replace bool
	Failure FailureState // to signal it
}

// CrashState is a container's restart back-off; see backOff.
type CrashState struct {
	Delay       time.Duration
	LastRestart time.Time
}

// failRemoval counts a failed removal, and forgets the failures of one that succeeded.
func (s *State) failRemoval(key string, r ActionResult, now time.Time) {
	if r.Err == nil {
		s.Removals = s.Removals.drop(key)
		return
	}
	s.Removals = s.Removals.with(key, s.Removals[key].after(r.Err, "", now))
}

// reasonConfig is the reason of a start that failed for an object that the spec names.
const reasonConfig = "CreateContainerConfigError"

// renew ends the back-off of everything that may have failed because of an object that changed
// since. Earlier failures still count if it fails again.
func (s *State) renew(pod *corev1.Pod, changed []podspec.ObjectRef) {
	if len(changed) == 0 {
		return
	}
	for key, c := range s.Claims {
		if !c.Failure.At.IsZero() {
			c.Failure.At = time.Time{}
			s.Claims = s.Claims.with(key, c)
		}
	}
	for name, f := range s.Starts {
		if f.Reason == reasonConfig && !f.At.IsZero() {
			f.At = time.Time{}
			s.Starts = s.Starts.with(name, f)
		}
	}
	if pod == nil || !slices.ContainsFunc(pod.Spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool {
		return slices.Contains(changed, podspec.ObjectRef{Kind: podspec.Secret, Name: r.Name})
	}) {
		return
	}
	for name, i := range s.Images {
		if !i.Failure.At.IsZero() {
			i.Failure.At = time.Time{}
			s.Images = s.Images.with(name, i)
		}
	}
}
