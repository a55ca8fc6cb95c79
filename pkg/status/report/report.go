// Package report is EDGE: it writes what package status computed to the API server: the node's
// object and lease, pods' statuses and events. The newest status wins; no caller that hands one
// over waits for the network. It alone writes Node, Lease and pod status, and it decides nothing.
package report
