package elements

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TableName is kube-proxy's name for its table, in the families ip and ip6.
const TableName = "kube-proxy"

// Names of chains, as kube-proxy has them.
const (
	// Base chains.
	chainPreroutingPreDNAT = "filter-prerouting-pre-dnat"
	chainOutputPreDNAT     = "filter-output-pre-dnat"
	chainInput             = "filter-input"
	chainForward           = "filter-forward"
	chainOutput            = "filter-output"
	chainNATPrerouting     = "nat-prerouting"
	chainNATOutput         = "nat-output"
	chainNATPostrouting    = "nat-postrouting"

	chainServices       = "services"
	chainEndpointsCheck = "service-endpoints-check"
	chainNodePortsCheck = "nodeport-endpoints-check"
	chainReject         = "reject-chain"
	chainClusterIPs     = "cluster-ips-check"
	chainFirewall       = "firewall-check"
	chainMasquerading   = "masquerading"

	// Chains of one port or endpoint of a Service.
	prefixCluster  = "service-"
	prefixLocal    = "local-"
	prefixExternal = "external-"
	prefixFirewall = "firewall-"
	prefixEndpoint = "endpoint-"
)

// Names of maps and sets, as kube-proxy has them.
const (
	mapServiceIPs    = "service-ips"
	mapNodePorts     = "service-nodeports"
	mapNoEndpoints   = "no-endpoint-services"
	mapNoNodePorts   = "no-endpoint-nodeports"
	mapFirewallIPs   = "firewall-ips"
	setClusterIPs    = "cluster-ips"
	setNodePortIPs   = "nodeport-ips"
	setHairpin       = "hairpin-connections"
	prefixAffinity   = "affinity-"
	longestChainBase = 240
)

// Canary is a chain that exists whenever the table does.
const Canary = chainNATPrerouting

// base is the part of the chain names that tells a port apart:
// HASH-namespace/service/protocol/port.
func base(p *snapshot.Port) string { return hashed(portPath(p)) }

// endpointBase is the same for one endpoint of a port.
func endpointBase(p *snapshot.Port, e snapshot.Endpoint) string {
	ip := strings.ReplaceAll(e.Addr().String(), ":", ".")
	return hashed(portPath(p) + "__" + ip + "/" + number(e.Port()))
}

func portPath(p *snapshot.Port) string {
	service, port, _ := strings.Cut(p.Name, ":")
	return service + "/" + protocol(p.Protocol) + "/" + port
}

// hashed puts a hash in front of a name, so that it stays unique when it is cut.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	out := base32.StdEncoding.EncodeToString(sum[:])[:8] + "-" + strings.Map(inName, name)
	if len(out) > longestChainBase {
		out = out[:longestChainBase-len("...")] + "..."
	}
	return out
}

// inName replaces what nftables does not allow in a name. Names of the API hold no such thing.
func inName(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_./", r):
		return r
	}
	return '_'
}

func protocol(p corev1.Protocol) string { return strings.ToLower(string(p)) }
