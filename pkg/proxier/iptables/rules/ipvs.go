package rules

import "slices"

// kube-proxy in mode ipvs shares chains with us and has some more: with ip sets it selects the
// packets that IPVS then balances. Its jumps into the shared chains have other conditions than
// ours. They have to go as soon as ours exist: packets of connections through IPVS would traverse
// rules that are meant for new connections.

// guards are chains of mode ipvs that protect the host's own ports from packets to a Service's
// address, as long as the host has that address (kubernetes #72236).
func guards() []string { return []string{"KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"} }

// ipvsChains are the chains of a table that only mode ipvs has.
func ipvsChains(table string) []string {
	switch table {
	case "filter":
		return append(guards(), "KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL")
	case "nat":
		return []string{"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"}
	}
	return nil
}

// IPVSJumps are the rules in built-in chains that only mode ipvs has.
func IPVSJumps() []Jump {
	jump := func(from, to, comment string) Jump {
		return Jump{Table: "filter", From: from, Rule: []string{"-m", "comment", "--comment", comment, "-j", to}}
	}
	return []Jump{
		jump("INPUT", chainProxyFirewall, "kube-proxy firewall rules"),
		jump("FORWARD", chainProxyFirewall, "kube-proxy firewall rules"),
		jump("INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
		jump("INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
		jump("OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
	}
}

// IPVSRemoval returns the jumps to delete, and then the change to apply, for removing the rules of
// mode ipvs that the kernel has; with keepGuards the guards stay.
func IPVSRemoval(kernel *Ruleset, keepGuards bool) ([]Jump, *Ruleset) {
	kept := func(chain string) bool { return keepGuards && slices.Contains(guards(), chain) }
	jumps := slices.DeleteFunc(IPVSJumps(), func(j Jump) bool { return kept(j.To()) })
	return Present(kernel, jumps), remove(kernel, func(table, chain string) bool {
		return slices.Contains(ipvsChains(table), chain) && !kept(chain)
	})
}
