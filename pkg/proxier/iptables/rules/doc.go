// Package rules is PURE: Snapshot → Ruleset → difference to what was applied, as text for
// iptables-restore, and back from the text of iptables-save. Chain names, the fwmark and the hooks
// are those of kube-proxy, since other programs read them (kubernetes/kubernetes
// pkg/proxy/iptables, v1.36). Package iptables applies what it returns.
package rules
