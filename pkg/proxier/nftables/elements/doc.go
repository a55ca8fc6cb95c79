// Package elements is PURE: it turns a snapshot.Snapshot and Options into the
// whole desired nftables table of one IP family: chains with their rules, maps
// and sets with their elements. Diff compares two tables and returns the
// operations that lead from one to the other, element by element; Replace does
// it for a table of which only the names are known.
//
// The names of the table, its chains, maps and sets are those of kube-proxy,
// since other programs read them (KEP-3866; kubernetes/kubernetes
// pkg/proxy/nftables, v1.36). The package never sees the kernel; package
// nftables applies the operations.
package elements
