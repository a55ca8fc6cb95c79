package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Names of chains that others look for.
const (
	ChainServices = "KUBE-SERVICES"
	// ChainCanary has no rules: without it, somebody has flushed its table.
	ChainCanary = "KUBE-PROXY-CANARY"
	// ChainHint tells other programs which iptables variant the node uses (KEP-3178).
	ChainHint = "KUBE-IPTABLES-HINT"
)

// Names of chains, as kube-proxy has them.
const (
	chainExternal      = "KUBE-EXTERNAL-SERVICES"
	chainNodePorts     = "KUBE-NODEPORTS"
	chainPostrouting   = "KUBE-POSTROUTING"
	chainMarkMasq      = "KUBE-MARK-MASQ"
	chainForward       = "KUBE-FORWARD"
	chainProxyFirewall = "KUBE-PROXY-FIREWALL"
	chainFirewall      = "KUBE-FIREWALL"

	prefixCluster  = "KUBE-SVC-"
	prefixLocal    = "KUBE-SVL-"
	prefixExternal = "KUBE-EXT-"
	prefixFirewall = "KUBE-FW-"
	prefixEndpoint = "KUBE-SEP-"
)

// hashed is the suffix of chains of one port or endpoint: 16 letters, since a
// chain's name has at most 28.
func hashed(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "")))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// perService says whether a chain belongs to one Service or endpoint, of ours
// or of a kube-proxy before us (KUBE-XLB until 1.24).
func perService(chain string) bool {
	for _, prefix := range []string{prefixCluster, prefixLocal, prefixExternal, prefixFirewall, prefixEndpoint, "KUBE-XLB-"} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// fixed are the chains of each table that always exist.
func fixed(table string) []string {
	switch table {
	case "filter":
		return []string{ChainServices, chainExternal, chainNodePorts, chainForward, chainProxyFirewall, chainFirewall, ChainCanary}
	case "nat":
		return []string{ChainServices, chainNodePorts, chainPostrouting, chainMarkMasq, ChainCanary}
	case "mangle":
		return []string{ChainHint, ChainCanary}
	}
	return nil
}

// owned says whether a chain of a table is one of ours.
func owned(table, chain string) bool {
	if table == "nat" && perService(chain) {
		return true
	}
	for _, name := range fixed(table) {
		if name == chain {
			return true
		}
	}
	return false
}

// Jump is a rule in a built-in chain that leads to one of ours.
type Jump struct {
	Table, From string
	Rule        []string
}

// To is the chain that the jump leads to.
func (j Jump) To() string { return j.Rule[len(j.Rule)-1] }

// Jumps are our rules in built-in chains, in their order. They stand before other
// programs' rules, so that packets to Services are translated before anyone
// decides about them.
func Jumps(o Options) []Jump {
	isNew := []string{"-m", "conntrack", "--ctstate", "NEW"}
	jump := func(table, from, to, comment string, match ...string) Jump {
		rule := append([]string{}, match...)
		if comment != "" {
			rule = append(rule, "-m", "comment", "--comment", comment)
		}
		return Jump{Table: table, From: from, Rule: append(rule, "-j", to)}
	}
	const balancer, portals, visible = "kubernetes load balancer firewall", "kubernetes service portals", "kubernetes externally-visible service portals"
	jumps := []Jump{
		jump("filter", "INPUT", chainProxyFirewall, balancer, isNew...),
		jump("filter", "INPUT", chainNodePorts, "kubernetes health check service ports"),
		jump("filter", "INPUT", chainExternal, visible, isNew...),
		jump("filter", "FORWARD", chainProxyFirewall, balancer, isNew...),
		jump("filter", "FORWARD", chainForward, "kubernetes forwarding rules"),
		jump("filter", "FORWARD", ChainServices, portals, isNew...),
		jump("filter", "FORWARD", chainExternal, visible, isNew...),
		jump("filter", "OUTPUT", chainProxyFirewall, balancer, isNew...),
		jump("filter", "OUTPUT", ChainServices, portals, isNew...),
		jump("nat", "PREROUTING", ChainServices, portals),
		jump("nat", "OUTPUT", ChainServices, portals),
		jump("nat", "POSTROUTING", chainPostrouting, "kubernetes postrouting rules"),
	}
	if o.firewall() {
		jumps = append(jumps, jump("filter", "INPUT", chainFirewall, ""), jump("filter", "OUTPUT", chainFirewall, ""))
	}
	return jumps
}
