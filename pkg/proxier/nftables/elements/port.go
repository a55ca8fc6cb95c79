package elements

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// mostRules is up to how many endpoints are chosen among by one rule each. A
// rule costs the kernel far less than an anonymous map when it is written (the
// kernel walks all maps of the table for each new one), and some nanoseconds
// when a connection begins. Beyond it a map finds the endpoint in one step.
const mostRules = 16

// portRules makes the fragment of one port. A new connection's way:
//
//	firewall-check ─firewall-ips─► firewall-… drops who is not in the source ranges
//	services ─service-ips (cluster IP)─────────────► service-… or local-… [─► endpoint-…] ─► DNAT
//	   ├─service-ips (external, balancer's IP)─► external-… ─► service-… or local-…
//	   └─service-nodeports─────────────────────► external-… ─► service-… or local-…
//	service-endpoints-check, nodeport-endpoints-check: what was not translated is rejected or dropped
type portRules struct {
	p                     *snapshot.Port
	s                     nodeOptions
	proto, base           string
	hasInternal, hasLocal bool // endpoints for internal traffic; for traffic from elsewhere
	f                     fragment
}

func renderPort(p *snapshot.Port, s nodeOptions) *fragment {
	r := portRules{p: p, s: s, proto: protocol(p.Protocol), base: base(p)}
	r.hasInternal = p.HasEndpoints && len(p.InternalEndpoints()) > 0
	r.hasLocal = p.HasEndpoints && len(p.ExternalEndpoints()) > 0
	r.clusterIP()
	r.external(p.ExternalIPs)
	r.external(p.LoadBalancerIPs)
	r.firewall()
	r.nodePort()
	r.externalChain()
	if r.usesCluster() {
		r.balance(prefixCluster+r.base, p.Cluster)
	}
	if p.HasEndpoints && p.UsesLocal() && len(p.Local) > 0 {
		r.balance(prefixLocal+r.base, p.Local)
	}
	if p.HasEndpoints {
		for _, e := range p.Reachable {
			r.endpoint(e)
		}
	}
	return &r.f
}

func (r *portRules) usesCluster() bool {
	return r.p.HasEndpoints && r.p.UsesCluster() && len(r.p.Cluster) > 0
}

func (r *portRules) chain(name string, rules ...string) {
	r.f.chains = append(r.f.chains, &Chain{Name: name, Rules: rules, Port: r.p})
}

func (r *portRules) add(set, key, verdict string) {
	e := Element{Key: key, Verdict: verdict, Port: r.p}
	if set == mapNoEndpoints || set == mapNoNodePorts {
		e.Comment = r.p.Name
	}
	r.f.elements = append(r.f.elements, placed{set: set, Element: e})
}

// place is the key of an address and the port.
func (r *portRules) place(a netip.Addr) string {
	return a.String() + " . " + r.proto + " . " + number(r.p.Port)
}

// without is the verdict on traffic without endpoints. Rejecting tells the
// client at once; dropping, where others have endpoints, is what the traffic
// policies say.
func (r *portRules) without() string {
	if r.p.HasEndpoints {
		return "drop"
	}
	return "goto " + chainReject
}

func (r *portRules) clusterIP() {
	r.add(setClusterIPs, r.p.ClusterIP.String(), "")
	if !r.hasInternal {
		r.add(mapNoEndpoints, r.place(r.p.ClusterIP), r.without())
		return
	}
	r.add(mapServiceIPs, r.place(r.p.ClusterIP), "goto "+r.policyChain(r.p.InternalLocal))
}

// policyChain chooses among the endpoints of a policy.
func (r *portRules) policyChain(local bool) string {
	if local {
		return prefixLocal + r.base
	}
	return prefixCluster + r.base
}

// external leads traffic to external addresses. Where it has no endpoints from elsewhere, the
// node's own and its pods' traffic may have some all the same.
func (r *portRules) external(addresses []netip.Addr) {
	for _, a := range addresses {
		if r.p.HasEndpoints {
			r.add(mapServiceIPs, r.place(a), "goto "+prefixExternal+r.base)
		}
		if !r.hasLocal {
			r.add(mapNoEndpoints, r.place(a), r.without())
		}
	}
}

// nodePort: node ports are not subject to source ranges, as everywhere.
func (r *portRules) nodePort() {
	if r.p.NodePort == 0 {
		return
	}
	key := r.proto + " . " + number(r.p.NodePort)
	if r.p.HasEndpoints {
		r.add(mapNodePorts, key, "goto "+prefixExternal+r.base)
	}
	if !r.hasLocal {
		r.add(mapNoNodePorts, key, r.without())
	}
}

// firewall drops what comes to a load balancer's address from outside of the source ranges. Such
// an address may be local: the node's own packets to it then come from that very address.
func (r *portRules) firewall() {
	p := r.p
	if len(p.LoadBalancerIPs) == 0 || len(p.SourceRanges) == 0 {
		return
	}
	ranges := p.SourceRanges
	if p.NodeInSourceRanges {
		for _, a := range p.LoadBalancerIPs {
			ranges = append(ranges[:len(ranges):len(ranges)], netip.PrefixFrom(a, a.BitLen()))
		}
	}
	var texts []string
	for _, prefix := range widest(ranges) {
		texts = append(texts, plain(prefix))
	}
	sources := texts[0]
	if len(texts) > 1 {
		sources = "{ " + strings.Join(texts, ", ") + " }"
	}
	r.chain(prefixFirewall+r.base, r.s.ip()+" saddr != "+sources+" drop")
	for _, a := range p.LoadBalancerIPs {
		r.add(mapFirewallIPs, r.place(a), "goto "+prefixFirewall+r.base)
	}
}

// externalChain: with policy Cluster the packet may leave for another node and
// must come back through this one, so it is masqueraded. With policy Local the
// source is kept; the node's own and its pods' packets are treated as if they
// had gone out to the balancer and come back, so they follow policy Cluster.
func (r *portRules) externalChain() {
	p := r.p
	if !p.ExternallyAccessible() || !p.HasEndpoints {
		return
	}
	var rules []string
	if !p.ExternalLocal {
		rules = append(rules, r.s.mark())
	} else if len(p.Cluster) > 0 {
		if is := r.s.local(""); is != "" {
			rules = append(rules, is+" goto "+prefixCluster+r.base)
		}
		rules = append(rules, "fib saddr type local "+r.s.mark(), "fib saddr type local goto "+prefixCluster+r.base)
	}
	if r.hasLocal {
		rules = append(rules, "goto "+r.policyChain(p.ExternalLocal))
	}
	r.chain(prefixExternal+r.base, rules...)
}

// balance chooses an endpoint: the one this client had, then each with equal chance.
func (r *portRules) balance(chain string, endpoints []snapshot.Endpoint) {
	if r.p.AffinitySeconds == 0 {
		r.chain(chain, r.translations(endpoints)...)
		return
	}
	rules := make([]string, 0, 2*len(endpoints))
	for _, e := range endpoints {
		name := endpointBase(r.p, e)
		rules = append(rules, r.s.ip()+" saddr @"+prefixAffinity+name+" goto "+prefixEndpoint+name)
	}
	if len(endpoints) > mostRules {
		choices := make([]string, len(endpoints))
		for i, e := range endpoints {
			choices[i] = strconv.Itoa(i) + " : goto " + prefixEndpoint + endpointBase(r.p, e)
		}
		r.chain(chain, append(rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(endpoints), strings.Join(choices, ", ")))...)
		return
	}
	for i, e := range endpoints {
		rules = append(rules, chance(len(endpoints)-i)+"goto "+prefixEndpoint+endpointBase(r.p, e))
	}
	r.chain(chain, rules...)
}

// translations are the rules that translate to one of the endpoints.
func (r *portRules) translations(endpoints []snapshot.Endpoint) []string {
	if len(endpoints) > mostRules {
		choices := make([]string, len(endpoints))
		for i, e := range endpoints {
			choices[i] = strconv.Itoa(i) + " : " + e.Addr().String() + " . " + number(e.Port())
		}
		return []string{fmt.Sprintf("meta l4proto %s dnat %s addr . port to numgen random mod %d map { %s }",
			r.proto, r.s.ip(), len(endpoints), strings.Join(choices, ", "))}
	}
	rules := make([]string, len(endpoints))
	for i, e := range endpoints {
		rules[i] = chance(len(endpoints)-i) + r.translation(e)
	}
	return rules
}

// chance matches one in n packets.
func chance(n int) string {
	if n == 1 {
		return ""
	}
	return "numgen random mod " + strconv.Itoa(n) + " 0 "
}

func (r *portRules) translation(e snapshot.Endpoint) string {
	return "meta l4proto " + r.proto + " dnat to " + e.String()
}

// endpoint adds what one endpoint needs besides being chosen: with affinity, a chain that
// remembers the client and the set that it is remembered in; on this node, that it may reach
// itself.
func (r *portRules) endpoint(e snapshot.Endpoint) {
	if e.Local {
		ip := e.Addr().String()
		r.add(setHairpin, ip+" . "+ip+" . "+r.proto+" . "+number(e.Port()), "")
	}
	if r.p.AffinitySeconds == 0 {
		return
	}
	name := endpointBase(r.p, e)
	r.f.sets = append(r.f.sets, &Set{
		Name: prefixAffinity + name, Type: r.s.addrType(), Timeout: time.Duration(r.p.AffinitySeconds) * time.Second, Port: r.p,
	})
	r.chain(prefixEndpoint+name, "update @"+prefixAffinity+name+" { "+r.s.ip()+" saddr }", r.translation(e))
}

func number(n uint16) string { return strconv.Itoa(int(n)) }
