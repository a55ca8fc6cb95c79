package podspec

import (
	"errors"
	"time"
)

// Termination ends a whole pod as Failed whatever its containers do: it was refused at admission,
// evicted, or the node shuts down. Its texts are kubelet's.
type Termination struct {
	Reason, Message string
	Grace           *time.Duration // nil: the pod's own
	// Disruption, when not "", sets the DisruptionTarget condition with this reason.
	Disruption string
}

// HookKind tells the lifecycle hooks of a container apart.
type HookKind string

// The two hooks of a container.
const (
	PostStart HookKind = "PostStart"
	PreStop   HookKind = "PreStop"
)

// ProbeResult is what a probe found; the zero value is NotProbed.
type ProbeResult string

// The results of a probe. It succeeds or fails when it did so as often in a row as its threshold
// says.
const (
	NotProbed    ProbeResult = ""
	ProbeSuccess ProbeResult = "Success"
	ProbeFailure ProbeResult = "Failure"
)

// Probes are the newest probe results of one container.
type Probes struct {
	Startup, Liveness, Readiness ProbeResult
	// Message tells why the liveness or startup probe fails.
	Message string
	// Grace is the terminationGracePeriodSeconds of the probe that failed; nil: the pod's.
	Grace *int64
}

// ReasonError is an error with the reason that kubelet reports for it: ErrImagePull,
// CreateContainerConfigError, RunContainerError and their like.
type ReasonError struct {
	Reason string
	Err    error
}

// Error is the text of the cause.
func (e *ReasonError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ReasonError) Unwrap() error { return e.Err }

// ReasonOf is the reason of an error; fallback when it has none.
func ReasonOf(err error, fallback string) string {
	var r *ReasonError
	if errors.As(err, &r) {
		return r.Reason
	}
	return fallback
}

// WithReason gives an error a reason, unless it has one already. It returns nil for nil.
func WithReason(reason string, err error) error {
	if err == nil || ReasonOf(err, "") != "" {
		return err
	}
	return &ReasonError{Reason: reason, Err: err}
}
