// Package status is PURE: what is reported to the API. Pod makes a pod's status from the same three
// arguments that podplan plans from, so that what is done and what is said never get out of step;
// Node makes the Node object from facts that edges gathered. Both keep what other writers own in
// the object that the API server holds, and when a condition last changed.
package status
