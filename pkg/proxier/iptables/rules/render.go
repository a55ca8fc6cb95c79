package rules

import (
	"maps"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// largeCluster is the number of endpoints from which comments are left out of
// per-service chains, as kube-proxy does: a third of the bytes.
const largeCluster = 1000

// Render makes the whole ruleset for a snapshot. The same input gives the same bytes.
func Render(s *snapshot.Snapshot, o Options) *Ruleset {
	return NewRenderer(o).Render(s)
}

// Renderer is Render with a memory: the text of a port that is the same pointer
// as last time is not rendered again, unless the node has changed. It is used by
// one goroutine.
type Renderer struct {
	o        Options
	node     nodeOptions // of memo
	comments bool
	memo     map[*snapshot.Port]*fragment
	round    uint64
	length   int                       // of the longest chain, last time
	left     map[*snapshot.Port]string // not rendered, and why
}

// NewRenderer returns a Renderer with an empty memory.
func NewRenderer(o Options) *Renderer {
	return &Renderer{o: o, comments: true, memo: map[*snapshot.Port]*fragment{}, left: map[*snapshot.Port]string{}}
}

// fragment is what one port adds to the ruleset.
type fragment struct {
	natServices, natNodePorts                      string
	filterServices, filterExternal, filterFirewall string
	chains                                         []Chain // in nat
	round                                          uint64  // of the Renderer, when it was last used
}

// compact is the same fragment with all text in one allocation: it lives as long as the Service.
func (f *fragment) compact() *fragment {
	texts := []string{f.natServices, f.natNodePorts, f.filterServices, f.filterExternal, f.filterFirewall}
	for _, c := range f.chains {
		if c.Rules == "" {
			texts = append(texts, c.Name)
		}
		texts = append(texts, c.Rules)
	}
	rest := strings.Join(texts, "")
	next := func(text string) (same string) {
		same, rest = rest[:len(text)], rest[len(text):]
		return same
	}
	out := &fragment{
		natServices: next(f.natServices), natNodePorts: next(f.natNodePorts),
		filterServices: next(f.filterServices), filterExternal: next(f.filterExternal), filterFirewall: next(f.filterFirewall),
		chains: make([]Chain, len(f.chains)),
	}
	for i, c := range f.chains {
		if c.Rules == "" {
			out.chains[i].Name = next(c.Name)
			continue
		}
		rules := next(c.Rules)
		// as every rule of it begins
		out.chains[i] = Chain{Name: rules[len("-A "):][:len(c.Name)], Rules: rules}
	}
	return out
}

// Render is like the function Render.
func (r *Renderer) Render(s *snapshot.Snapshot) *Ruleset {
	comments, node := s.EndpointCount() <= largeCluster, r.o.at(s)
	if comments != r.comments || !node.equal(r.node) {
		clear(r.memo)
	}
	r.comments, r.node = comments, node
	var natServices, natNodePorts, services, external, firewall, health strings.Builder
	natServices.Grow(r.length + r.length/64 + 512)
	r.round++
	chains := make([]Chain, 0, 3*len(r.memo))
	for _, svc := range s.Services {
		healthCheckRules(&health, svc, node)
		for _, p := range svc.Ports {
			f := r.fragment(p)
			if r.left[p] != "" {
				continue
			}
			natServices.WriteString(f.natServices)
			natNodePorts.WriteString(f.natNodePorts)
			services.WriteString(f.filterServices)
			external.WriteString(f.filterExternal)
			firewall.WriteString(f.filterFirewall)
			chains = append(chains, f.chains...)
		}
	}
	maps.DeleteFunc(r.memo, func(_ *snapshot.Port, f *fragment) bool { return f.round != r.round })
	maps.DeleteFunc(r.left, func(p *snapshot.Port, _ string) bool { return r.memo[p] == nil })
	natServices.WriteString(nodePortJumps(node))
	r.length = natServices.Len()
	nat := []Chain{
		{Name: ChainServices, Rules: natServices.String()},
		{Name: chainNodePorts, Rules: natNodePorts.String()},
		{Name: chainPostrouting, Rules: postrouting(r.o)},
		{Name: chainMarkMasq, Rules: line(chainMarkMasq, "-j MARK --or-mark", r.o.fwmark())},
		{Name: ChainCanary},
	}
	filter := []Chain{
		{Name: ChainServices, Rules: services.String()},
		{Name: chainExternal, Rules: external.String()},
		{Name: chainNodePorts, Rules: health.String()},
		{Name: chainForward, Rules: forward(r.o)},
		{Name: chainProxyFirewall, Rules: firewall.String()},
		{Name: ChainCanary},
	}
	if r.o.firewall() {
		filter = append(filter, Chain{Name: chainFirewall, Rules: martians()})
	}
	return &Ruleset{Tables: []Table{
		{Name: "nat", Chains: append(nat, chains...)}, // first: filter is for what it leaves
		{Name: "filter", Chains: filter},
		{Name: "mangle", Chains: []Chain{{Name: ChainHint}, {Name: ChainCanary}}},
	}}
}

func (r *Renderer) fragment(p *snapshot.Port) *fragment {
	f := r.memo[p]
	if f == nil {
		f = renderPort(p, r.node, r.comments)
		r.memo[p] = f
	}
	f.round = r.round
	return f
}

// line is one rule: the parts that are not empty, joined by spaces.
func line(chain string, parts ...string) string {
	var b strings.Builder
	b.WriteString("-A ")
	b.WriteString(chain)
	for _, part := range parts {
		if part != "" {
			b.WriteByte(' ')
			b.WriteString(part)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// comment is a quoted comment. Valid names of the API hold neither quotes nor backslashes.
func comment(parts ...string) string {
	text := strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' {
			return '_'
		}
		return r
	}, strings.Join(parts, ""))
	return `-m comment --comment "` + text[:min(len(text), 255)] + `"`
}

// postrouting masquerades marked packets and clears the mark, so that a packet
// that passes again, encapsulated, is not masqueraded twice.
func postrouting(o Options) string {
	random := ""
	if o.RandomFully {
		random = "--random-fully"
	}
	m := o.fwmark()
	return line(chainPostrouting, "-m mark ! --mark", m+"/"+m, "-j RETURN") +
		line(chainPostrouting, "-j MARK --xor-mark", m) +
		line(chainPostrouting, comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE", random)
}

// forward drops packets that conntrack calls INVALID: they would reach the client
// untranslated, and it would reset its connection. It accepts service traffic even
// if the policy of FORWARD is DROP.
func forward(o Options) string {
	invalid := line(chainForward, "-m conntrack --ctstate INVALID", o.count(CountInvalid), "-j DROP")
	if o.TCPBeLiberal {
		invalid = ""
	}
	m := o.fwmark()
	return invalid +
		line(chainForward, comment("kubernetes forwarding rules"), "-m mark --mark", m+"/"+m, "-j ACCEPT") +
		line(chainForward, comment("kubernetes forwarding conntrack rule"), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
}

// martians protects services on 127.0.0.1 from the node's neighbours while
// route_localnet is set (CVE-2020-8558).
func martians() string {
	return line(chainFirewall, comment("block incoming localnet connections"),
		"-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
}

// nodePortJumps are the end of KUBE-SERVICES. addrtype matches the addresses that
// are local at the time, so the rules need not follow them.
func nodePortJumps(s nodeOptions) string {
	note := comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
	var b strings.Builder
	for _, to := range s.destinations() {
		b.WriteString(line(ChainServices, note, to, "-m addrtype --dst-type LOCAL -j", chainNodePorts))
	}
	return b.String()
}

// healthCheckRules accept the requests of load balancers on the addresses on which the health
// check server listens: those of node ports.
func healthCheckRules(b *strings.Builder, svc *snapshot.Service, s nodeOptions) {
	if svc.HealthCheckNodePort == 0 {
		return
	}
	destinations := []string{""}
	if !s.nodePorts.All {
		destinations = s.destinations()
	}
	for _, to := range destinations {
		b.WriteString(line(chainNodePorts, comment(svc.Namespace, "/", svc.Name, " health check node port"),
			to, "-p tcp -m tcp --dport", number(svc.HealthCheckNodePort), "-j ACCEPT"))
	}
}
