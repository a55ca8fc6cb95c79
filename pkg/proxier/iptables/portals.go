package iptables

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// udpPortals are the places where Services answer UDP by the rules that the kernel has, ours or a
// kube-proxy's: those that lead to endpoints, and those that refuse since there are none. They are
// sorted.
func udpPortals(kernel *Ruleset) []snapshot.Portal {
	found := map[snapshot.Portal]bool{}
	for _, t := range kernel.Tables {
		for _, c := range t.Chains {
			if !hasPortals(t.Name, c.Name) {
				continue
			}
			for rule := range strings.SplitSeq(c.Rules, "\n") {
				if p, ok := portal(rule); ok && p.Protocol == corev1.ProtocolUDP {
					found[p] = true
				}
			}
		}
	}
	out := make([]snapshot.Portal, 0, len(found))
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b snapshot.Portal) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return out
}

// hasPortals says whether a chain's rules name such places.
func hasPortals(table, chain string) bool {
	switch chain {
	case chainServices:
		return true
	case chainNodePorts:
		return table == "nat"
	case chainExternal:
		return table == "filter"
	}
	return false
}

// portalsToo is outline with the rules that name such places.
func portalsToo(text []byte) (*Ruleset, error) {
	return parse(text, func(table, chain string) bool { return !owned(table, chain) || hasPortals(table, chain) })
}

// portal is the place that a rule matches; not ok: it matches something else.
func portal(rule string) (p snapshot.Portal, ok bool) {
	list := words(rule)
	local := len(list) > 1 && list[1] == chainNodePorts // its destination is an address of the node
	// it has more than one destination, or all but some
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

// FoundUDP are the portals of UDP that the kernel's rules had before this Backend wrote any; nil
// before the first Sync.
func (b *Backend) FoundUDP() []snapshot.Portal {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.found
}
