package podplan

import "time"

// Memory holds facts of one pod that the host cannot hold. The worker of the pod owns it: it calls
// Allocate and Observe before each plan and Note after each action; Next and Look only read it. The
// zero Memory is ready for use. Every moment in it is one of the agent's own clock, with its
// monotonic reading.
type Memory struct {
	FirstSeen time.Time // when the agent first heard of the pod
	// Began is when the node took the pod in, as a podspec.OwnMoment; the active deadline counts
	// from it.
	Began            time.Time
	startReported    bool      // the API's start time is in Began
	TerminatingSince time.Time // when it first saw that the pod must end; zero if it need not
	// Grace counts from TerminatingSince: together they are the deadline, which a later want may
	// only bring forward.
	Grace time.Duration
	// SpecGrace is the pod's own grace, for when its spec is no longer known.
	SpecGrace time.Duration
	// Exceeded says that the pod was seen past its activeDeadlineSeconds while it lived.
	Exceeded bool

	Volumes     map[string]VolumeState  // by volume name
	Images      map[string]ImageState   // by container name
	Starts      map[string]FailureState // by container name: failures to create or start an attempt
	Sandbox     FailureState            // failures to start the sandbox
	NextSandbox int                     // attempt that the next sandbox has at least
	Hooks       map[string]HookState    // by container id
	Stops       map[string]StopState    // by container id
	Crashes     map[string]CrashState   // by container name: restart back-off
	// by container id: own moments at which attempts ended; restart back-offs count from them
	Ends    map[string]time.Time
	Removal map[string]FailureState // by Action.Key: failures to remove something
	Resize  ResizeState
}

// FailureState counts failures in a row; the zero value is none.
type FailureState struct {
	Reason, Message string
	Count           int
	At              time.Time // of the last one
	Attempt         int       // of the container, where there is one
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

// of says that this is the image of an attempt.
func (s ImageState) of(ref string, attempt int) bool { return s.Ref == ref && s.Attempt == attempt }

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
	// Replace says that it ends for a newer spec or other resources of its own, and is started
	// again whatever its restart policy says.
	Replace bool
	Failure FailureState // to signal it
}

// CrashState is a container's restart back-off; see backOff.
type CrashState struct {
	Delay       time.Duration
	LastRestart time.Time
}

// ActionResult is the outcome of an action, for Note. ImageID is set by a successful EnsureImage.
type ActionResult struct {
	Err     error
	ImageID string
}
