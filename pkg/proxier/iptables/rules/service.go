package rules

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// portRules makes the fragment of one port. A packet's way through nat:
//
//	KUBE-SERVICES ─cluster IP──────────────────────────► SVC or SVL ─► SEP ─► DNAT
//	   │ external or load-balancer IP ──► [FW ─►] EXT ──► SVC or SVL
//	   └ KUBE-NODEPORTS ─node port─────────────► EXT
//
// and through filter, if nat did not translate it: REJECT without endpoints, DROP
// where the policy allows none from here.
//
// The rules of chains that all Services share (KUBE-SERVICES, KUBE-NODEPORTS in
// nat) depend on the Service alone, not on its endpoints: without any, they lead
// to an empty chain, where kube-proxy leaves the rules out. So a first endpoint
// changes a few rules, however many Services there are.
type portRules struct {
	p                  *snapshot.Port
	o                  nodeOptions
	comments           bool
	proto              string
	svc, svl, ext, fw  string // chain names
	hasInt, hasExt     bool   // endpoints for internal and external traffic
	f                  fragment
	noInt, noExt       string // filter targets
	noIntWhy, noExtWhy string // their comments
}

func renderPort(p *snapshot.Port, o nodeOptions, comments bool) *fragment {
	proto := strings.ToLower(string(p.Protocol))
	suffix := hashed(p.Name, proto)
	r := portRules{
		p: p, o: o, comments: comments, proto: proto,
		svc: prefixCluster + suffix, svl: prefixLocal + suffix, ext: prefixExternal + suffix, fw: prefixFirewall + suffix,
		hasInt: p.HasEndpoints && len(p.InternalEndpoints()) > 0,
		hasExt: p.HasEndpoints && len(p.ExternalEndpoints()) > 0,
	}
	r.noInt, r.noIntWhy = r.without(r.hasInt)
	r.noExt, r.noExtWhy = r.without(r.hasExt)
	r.clusterIP()
	r.externalIPs()
	r.loadBalancer()
	r.nodePort()
	r.externalChain()
	if p.UsesCluster() {
		r.balanced(r.svc, p.Cluster, !p.InternalLocal)
	}
	if p.UsesLocal() {
		r.balanced(r.svl, p.Local, p.InternalLocal)
	}
	for _, e := range p.Reachable {
		r.endpoint(e)
	}
	return r.f.compact()
}

// balanced adds the chain that chooses among endpoints; internal: cluster IPs lead to it.
func (r *portRules) balanced(chain string, endpoints []snapshot.Endpoint, internal bool) {
	rules := ""
	if r.p.HasEndpoints && len(endpoints) > 0 {
		if internal {
			rules = r.masqueradeClusterIP(chain)
		}
		rules += r.balance(chain, endpoints)
	}
	r.chain(chain, rules)
}

// without is the filter target and its comment for traffic without endpoints.
// Rejecting tells the client at once; dropping, where others have endpoints,
// is what the traffic policies say.
func (r *portRules) without(has bool) (target, why string) {
	switch {
	case has:
		return "", ""
	case r.p.HasEndpoints:
		return "DROP", comment(r.p.Name, " has no local endpoints")
	}
	target = "REJECT"
	if r.o.ipv6() && r.proto == "tcp" {
		// A connecting socket of Linux notices an ICMPv6 error only when it
		// sends again, a second later, but a reset at once.
		target += " --reject-with tcp-reset"
	}
	return target, comment(r.p.Name, " has no endpoints")
}

func (r *portRules) chain(name, rules string) {
	r.f.chains = append(r.f.chains, Chain{Name: name, Rules: rules})
}

// to matches packets to an address and the port.
func (r *portRules) to(a netip.Addr) string {
	return "-p " + r.proto + " -m " + r.proto + " -d " + a.String() + " --dport " + number(r.p.Port)
}

func (r *portRules) clusterIP() {
	p := r.p
	if !r.hasInt {
		r.f.filterServices += line(ChainServices, r.noIntWhy, r.to(p.ClusterIP), "-j", r.noInt)
	}
	target := r.svc
	if p.InternalLocal {
		target = r.svl
	}
	r.f.natServices += line(ChainServices, comment(p.Name, " cluster IP"), r.to(p.ClusterIP), "-j", target)
}

// masqueradeClusterIP is the first rule of the chain that cluster IPs lead to:
// a client from outside the cluster that routes to cluster IPs through this
// node must get its answer through it too.
func (r *portRules) masqueradeClusterIP(chain string) string {
	if !r.hasInt {
		return ""
	}
	match := comment(r.p.Name, " cluster IP") + " " + r.to(r.p.ClusterIP)
	if r.o.MasqueradeAll {
		return line(chain, match, "-j", chainMarkMasq)
	}
	if not := r.o.isNotLocal(); not != "" {
		return line(chain, match, not, "-j", chainMarkMasq)
	}
	return ""
}

func (r *portRules) externalIPs() {
	for _, a := range r.p.ExternalIPs {
		r.f.natServices += line(ChainServices, comment(r.p.Name, " external IP"), r.to(a), "-j", r.ext)
		r.rejectExternal(a)
	}
}

func (r *portRules) rejectExternal(a netip.Addr) {
	if !r.hasExt {
		r.f.filterExternal += line(chainExternal, r.noExtWhy, r.to(a), "-j", r.noExt)
	}
}

func (r *portRules) loadBalancer() {
	p := r.p
	limited := len(p.LoadBalancerIPs) > 0 && len(p.SourceRanges) > 0
	target := r.ext
	if limited {
		target = r.fw
		r.firewallChain()
	}
	for _, a := range p.LoadBalancerIPs {
		r.f.natServices += line(ChainServices, comment(p.Name, " loadbalancer IP"), r.to(a), "-j", target)
		if limited && p.HasEndpoints {
			r.f.filterFirewall += line(chainProxyFirewall, comment(p.Name, " traffic not accepted by ", r.fw), r.to(a), "-j DROP")
		}
		r.rejectExternal(a)
	}
}

// firewallChain accepts the source ranges; what reaches its end is not translated
// and is dropped in KUBE-PROXY-FIREWALL. A balancer's address may be local: then
// the node's own packets to it have that very address as their source.
func (r *portRules) firewallChain() {
	p := r.p
	if !p.HasEndpoints {
		r.chain(r.fw, "")
		return
	}
	why := comment(p.Name, " loadbalancer IP")
	var b strings.Builder
	for _, prefix := range p.SourceRanges {
		b.WriteString(line(r.fw, why, "-s", prefix.String(), "-j", r.ext))
	}
	if p.NodeInSourceRanges {
		for _, a := range p.LoadBalancerIPs {
			b.WriteString(line(r.fw, why, "-s", a.String(), "-j", r.ext))
		}
	}
	b.WriteString(line(r.fw, comment("other traffic to ", p.Name, " will be dropped by KUBE-PROXY-FIREWALL")))
	r.chain(r.fw, b.String())
}

// nodePort: node ports are not subject to source ranges, as with other proxies.
// Without endpoints they are refused only on the addresses on which they would
// answer: on others the port may be another program's.
func (r *portRules) nodePort() {
	p := r.p
	if p.NodePort == 0 {
		return
	}
	match := "-p " + r.proto + " -m " + r.proto + " --dport " + number(p.NodePort)
	elsewhere := ""
	if r.o.Accounting && r.o.nodePorts.Loopback {
		r.f.natNodePorts += line(chainNodePorts, comment(p.Name), "-d 127.0.0.0/8", match, r.o.count(CountLocalhost), "-j", r.ext)
		elsewhere = "! -d 127.0.0.0/8" // at most one rule matches: inserted rules stand in another order
	}
	r.f.natNodePorts += line(chainNodePorts, comment(p.Name), match, elsewhere, "-j", r.ext)
	if r.hasExt {
		return
	}
	for _, to := range r.o.destinations() {
		r.f.filterExternal += line(chainExternal, r.noExtWhy, to, "-m addrtype --dst-type LOCAL", match, "-j", r.noExt)
	}
}

// externalChain: with policy Cluster the packet may go to another node and its
// answer must come back through this one, so it is masqueraded. With policy Local
// the source is kept; packets of the node and its pods follow policy Cluster, as if
// they had gone out to the balancer and come back.
func (r *portRules) externalChain() {
	p := r.p
	if !p.ExternallyAccessible() {
		return
	}
	if !p.HasEndpoints {
		r.chain(r.ext, "")
		return
	}
	what := " for " + p.Name + " external destinations"
	var b strings.Builder
	if !p.ExternalLocal {
		b.WriteString(line(r.ext, comment("masquerade traffic", what), "-j", chainMarkMasq))
	} else if len(p.Cluster) > 0 {
		if is := r.o.isLocal(); is != "" {
			b.WriteString(line(r.ext, comment("pod traffic", what), is, "-j", r.svc))
		}
		b.WriteString(line(r.ext, comment("masquerade LOCAL traffic", what), "-m addrtype --src-type LOCAL -j", chainMarkMasq))
		b.WriteString(line(r.ext, comment("route LOCAL traffic", what), "-m addrtype --src-type LOCAL -j", r.svc))
	}
	if r.hasExt {
		target := r.svc
		if p.ExternalLocal {
			target = r.svl
		}
		b.WriteString(line(r.ext, "-j", target))
	}
	r.chain(r.ext, b.String())
}

// balance chooses an endpoint: the one that this client had before, else each with equal
// probability.
func (r *portRules) balance(chain string, endpoints []snapshot.Endpoint) string {
	var b strings.Builder
	for _, e := range endpoints {
		if r.p.AffinitySeconds == 0 {
			break
		}
		sep := r.sep(e)
		b.WriteString(line(chain, r.arrow(e), "-m recent --name", sep,
			"--rcheck --seconds", strconv.Itoa(int(r.p.AffinitySeconds)), "--reap -j", sep))
	}
	for i, e := range endpoints {
		chance := ""
		if left := len(endpoints) - i; left > 1 {
			chance = "-m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 10, 64)
		}
		b.WriteString(line(chain, r.arrow(e), chance, "-j", r.sep(e)))
	}
	return b.String()
}

func (r *portRules) arrow(e snapshot.Endpoint) string {
	if !r.comments {
		return ""
	}
	return comment(r.p.Name, " -> ", e.String())
}

func (r *portRules) sep(e snapshot.Endpoint) string {
	return prefixEndpoint + hashed(r.p.Name, r.proto, e.String())
}

// endpoint translates; a pod that reaches itself is masqueraded, or the answer
// would never leave it.
func (r *portRules) endpoint(e snapshot.Endpoint) {
	sep, why := r.sep(e), ""
	if r.comments {
		why = comment(r.p.Name)
	}
	remember := ""
	if r.p.AffinitySeconds > 0 {
		remember = "-m recent --name " + sep + " --set"
	}
	r.chain(sep, line(sep, why, "-s", e.Addr().String(), "-j", chainMarkMasq)+
		line(sep, why, remember, "-p", r.proto, "-m", r.proto, "-j DNAT --to-destination", e.String()))
}

func number(n uint16) string { return strconv.Itoa(int(n)) }
