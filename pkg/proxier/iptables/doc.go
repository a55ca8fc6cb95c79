// Package iptables is EDGE: the services backend over iptables. It reads a
// snapshot.Snapshot and the kernel's own iptables-save, and alone writes the
// chains KUBE-* of kube-proxy and the jumps to them; it never touches another
// program's chain or rule.
//
// render.go, chains.go, service.go, diff.go and parse.go are PURE: Snapshot →
// Ruleset → difference to what was applied. restore.go applies: one
// iptables-restore a sync, which the kernel takes whole or not at all for each
// table. Chain names, the mark and the hooks are those of kube-proxy, since other
// programs read them (kubernetes/kubernetes pkg/proxy/iptables, v1.36).
package iptables
