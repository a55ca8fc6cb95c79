package podplan

import (
	"fmt"
	"time"
)

// Action is one thing that may be done now. Everything that planner and loop know of an action is
// in its own file. podsync.Executor carries it out.
type Action interface {
	// String is one line for people: plans print it in logs, in `nodeagent status` and in golden
	// files.
	fmt.Stringer
	// Key names what the action works on. Two actions with one key never run at the same time.
	Key() string
	// Policy says how the loop runs the action.
	Policy() Policy
	// complete takes the action's result into a state.
	complete(s *State, r ActionResult, now time.Time)
	// simulate does to a host in memory what the action does to a real one when it succeeds.
	simulate(h *simulation)
}

// Policy says how the loop runs an action. The zero value is that of an action without a name in
// metrics that runs to its end or until the loop's request timeout.
type Policy struct {
	// Operation is the action's name in metrics: the CRI call that does the same work; "" for work
	// that a container runtime has no part in.
	Operation string
	// Limit is the longest that the action may take; 0: the loop's request timeout.
	Limit time.Duration
	// Cancel says what ends the action early.
	Cancel Cancel
}

// Cancel says what ends a running action early.
type Cancel int

// What ends a running action early, beside its limit and the end of the agent.
const (
	CancelNever Cancel = iota
	// CancelAtEnd cancels an action that brings the pod up as soon as the pod must end.
	CancelAtEnd
	// CancelAtGrace cancels an action that belongs to the pod's end when it has used up the grace
	// that the pod has by now, which may be shorter than when the action began.
	CancelAtGrace
)

// Keys of actions begin with these prefixes, by which a plan waits for all of one sort.
const (
	startPrefix  = "container/"
	resizePrefix = "resize/"
	removePrefix = "remove/"
)

// sandboxKey is the key of all that is done to the sandbox.
const sandboxKey = "sandbox"
