// Package iptables is EDGE: the services backend over iptables. It reads a snapshot.Snapshot and
// the text of iptables-save, and alone writes kube-proxy's chains KUBE-* and the jumps to them; it
// never touches another program's chain or rule.
//
// Package rules, which is PURE, decides what the rules are. A Backend renders each snapshot with
// it and leaves out ports that the kernel refuses; an Engine keeps any Ruleset in the kernel, by
// one iptables-restore a change, which the kernel takes whole or not at all for each table; a
// Program is the iptables of this machine. A backend that needs a few fixed rules uses an Engine
// of its own.
package iptables
