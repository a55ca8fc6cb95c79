package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// UDPFrontends are the places where Services answer UDP by the kernel's rules, ours or
// kube-proxy's: rules that lead to endpoints, and rules that refuse since there are none. They are
// sorted.
func UDPFrontends(kernel *Ruleset) []snapshot.Frontend {
	found := map[snapshot.Frontend]bool{}
	for _, t := range kernel.Tables {
		for _, c := range t.Chains {
			if !hasFrontends(t.Name, c.Name) {
				continue
			}
			for rule := range strings.SplitSeq(c.Rules, "\n") {
				if p, ok := frontend(rule); ok && p.Protocol == corev1.ProtocolUDP {
					found[p] = true
				}
			}
		}
	}
	out := make([]snapshot.Frontend, 0, len(found))
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b snapshot.Frontend) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return out
}

// hasFrontends says whether a chain's rules match such places.
func hasFrontends(table, chain string) bool {
	switch chain {
	case ChainServices:
		return true
	case chainNodePorts:
		return table == "nat"
	case chainExternal:
		return table == "filter"
	}
	return false
}

// OutlineWithFrontends is Outline with the rules that UDPFrontends needs.
func OutlineWithFrontends(text []byte) (*Ruleset, error) {
	return parse(text, func(table, chain string) bool { return !owned(table, chain) || hasFrontends(table, chain) })
}

// frontend is the place that a rule matches; not ok: it matches something else.
func frontend(rule string) (p snapshot.Frontend, ok bool) {
	list := words(rule)
	local := len(list) > 1 && list[1] == chainNodePorts // its destination is an address of the node
	// it matches several destinations
	vague := false
	for i := 2; i+1 < len(list); i++ { // after -A NAME
		value := list[i+1]
		switch list[i] {
		case "!":
			i += 2
			vague = true
		case "-p":
			p.Protocol = corev1.Protocol(strings.ToUpper(protocol(value)))
		case "-d":
			at, err := netip.ParsePrefix(prefix(value))
			if err != nil {
				return p, false
			}
			if at.IsSingleIP() {
				p.Addr = at.Addr()
			} else {
				vague = true
			}
		case "--dst-type":
			local = value == "LOCAL"
		case "--dport":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return p, false
			}
			p.Port = uint16(n)
		}
	}
	return p, p.Protocol != "" && p.Port != 0 && (local || !vague)
}
