package podplan

import "time"

// Memory holds facts of one pod that the host cannot hold. The worker of the pod owns it: it calls Observe before each plan
// and Note after each action; Next only reads it.
type Memory struct {
	FirstSeen        time.Time // when the agent first heard of the pod
	TerminatingSince time.Time // when it first saw that the pod must end; zero if it need not
	Grace            time.Duration

	Volumes map[string]VolumeState  // by volume name
	Images  map[string]ImageState   // by container name
	Starts  map[string]FailureState // by container name: failures to create or start the next attempt
	Sandbox FailureState            // failures to start the sandbox
	Hooks   map[string]HookState    // by container id
	Stops   map[string]StopState    // by container id
	Crashes map[string]CrashState   // by container name: restart back-off
	Removal FailureState            // failures to remove something
}

// FailureState counts failures in a row; the zero value is none.
type FailureState struct {
	Reason, Message string
	Count           int
	At              time.Time // of the last one
}

// VolumeState is one volume.
type VolumeState struct {
	Mounted bool
	Failure FailureState
}

// ImageState is the image of the attempt that is to be started next.
type ImageState struct {
	Ref     string
	Attempt int
	ImageID string // "" until found or pulled
	Failure FailureState
}

// HookState is what is known of a container's hooks.
type HookState struct {
	PostStartDone, PreStopDone bool
	PostStartError             string
}

// StopState is how far the ending of a container is.
type StopState struct {
	Since    time.Time // when its end was first wanted (grace counts from here)
	TermSent time.Time
	KillSent time.Time
	Message  string
	Grace    time.Duration
}

// CrashState is a container's restart back-off: 10 s doubling to 300 s, forgotten after 10 minutes of quiet.
type CrashState struct {
	Delay       time.Duration
	LastRestart time.Time
}

// Outcome of an action, for Note. ImageID is set by a successful EnsureImage.
type ActionResult struct {
	Err     error
	ImageID string
}

// ReasonError is an error with kubelet's reason, as in ErrImagePull, CreateContainerConfigError, RunContainerError.
type ReasonError struct {
	Reason string
	Err    error
}

// Error is the cause's text.
func (e *ReasonError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *ReasonError) Unwrap() error { return e.Err }
