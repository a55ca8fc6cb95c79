package fakekernel

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Packet is the first packet of a connection.
type Packet struct {
	Proto    string // tcp, udp or sctp
	Src, Dst netip.AddrPort
	// In is the interface that it arrives on; empty: a process of the node sends it.
	In string
}

// Verdict is how a packet ends.
type Verdict string

// The verdicts. Accepted means that the packet reaches its destination, here or elsewhere.
const (
	Accepted Verdict = "accepted"
	Rejected Verdict = "rejected"
	Dropped  Verdict = "dropped"
)

// Result is one possible result of a packet.
type Result struct {
	Verdict Verdict
	// Dst is its final destination.
	Dst netip.AddrPort
	// Masqueraded means that its source is the node's address.
	Masqueraded bool

	remember []string // -m recent --set, on this way
}

// state is a packet on one of its possible paths.
type state struct {
	header
	mark       uint32
	translated bool
	masq       bool
	remember   []string
	verdict    Verdict // empty: still on its way
	natDone    bool    // the nat hook has taken its decision
}

// header is the packet's current header.
type header struct {
	proto    string
	src, dst netip.AddrPort
	in       string
}

func (k *Kernel) isLocal(a netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(k.local, a)
}

// Trace returns every result that chance allows, sorted, each once.
func (k *Kernel) Trace(p Packet) []Result {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trace(p)
}

// Connect sends one packet. It picks one of the results by chance and keeps what the rules remember
// of it (session affinity).
func (k *Kernel) Connect(p Packet) Result {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.trace(p)
	out := all[rand.IntN(len(all))]
	for _, list := range out.remember {
		if k.recent[list] == nil {
			k.recent[list] = map[netip.Addr]bool{}
		}
		k.recent[list][p.Src.Addr()] = true
	}
	return out
}

func (k *Kernel) trace(p Packet) []Result {
	states := []state{{header: header{proto: p.Proto, src: p.Src, dst: p.Dst, in: p.In}}}
	first := "PREROUTING"
	if p.In == "" {
		first = "OUTPUT"
	}
	states = k.hook(states, "nat", first)
	if p.In == "" {
		states = k.hook(states, "filter", "OUTPUT")
	} else {
		states = k.routed(states)
	}
	states = k.hook(states, "nat", "POSTROUTING")
	var out []Result
	for _, s := range states {
		if s.verdict == "" {
			s.verdict = Accepted
		}
		o := Result{Verdict: s.verdict, remember: s.remember}
		if s.verdict == Accepted {
			o.Dst, o.Masqueraded = s.dst, s.masq
		}
		if !slices.ContainsFunc(out, func(x Result) bool { return x.compare(o) == 0 }) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, Result.compare)
	return out
}

func (o Result) compare(x Result) int {
	masq := 0
	if o.Masqueraded != x.Masqueraded {
		masq = 1
		if x.Masqueraded {
			masq = -1
		}
	}
	return cmp.Or(cmp.Compare(o.Verdict, x.Verdict), o.Dst.Compare(x.Dst), masq)
}

// routed sends each state to INPUT or FORWARD by its destination.
func (k *Kernel) routed(states []state) []state {
	var here, on []state
	for _, s := range states {
		if k.isLocal(s.dst.Addr()) {
			here = append(here, s)
		} else {
			on = append(on, s)
		}
	}
	return append(k.hook(here, "filter", "INPUT"), k.hook(on, "filter", "FORWARD")...)
}

// hook runs a built-in chain, whose policy is ACCEPT.
func (k *Kernel) hook(states []state, tableName, chainName string) []state {
	for i := range states {
		states[i].natDone = false
	}
	return k.run(states, k.tables[tableName], chainName)
}

// run sends states through a chain; every rule may split a state in two.
func (k *Kernel) run(states []state, t *table, chainName string) []state {
	var out []state
	inside := states
	for _, r := range t.chains[chainName].rules {
		var stay []state
		for _, s := range inside {
			switch {
			case s.verdict != "" || s.natDone:
				out = append(out, s)
			case !k.matches(r, &s):
				stay = append(stay, s)
			default:
				if r.chance > 0 && r.chance < 1 {
					stay = append(stay, s.clone())
				}
				on, gone := k.take(r, t, s.clone())
				stay, out = append(stay, on...), append(out, gone...)
			}
		}
		inside = stay
	}
	return append(out, inside...)
}

func (s state) clone() state {
	s.remember = slices.Clone(s.remember)
	return s
}

func (k *Kernel) matches(r *rule, s *state) bool {
	for _, t := range r.tests {
		if !t(k, s) {
			return false
		}
	}
	return true
}

// take applies the target: on are states that continue in the chain, gone those that leave it.
func (k *Kernel) take(r *rule, t *table, s state) (on, gone []state) {
	if r.set != "" {
		s.remember = append(s.remember, r.set)
	}
	switch r.target {
	case "":
		return []state{s}, nil
	case "RETURN":
		return nil, []state{s}
	case "MARK":
		s.mark = r.mark(s.mark)
		return []state{s}, nil
	case "ACCEPT":
		s.natDone = true
	case "DROP":
		s.verdict = Dropped
	case "REJECT":
		s.verdict = Rejected
	case "DNAT":
		s.dst, s.translated, s.natDone = r.dnat, true, true
	case "MASQUERADE":
		s.masq, s.natDone = true, true
	default:
		return k.run([]state{s}, t, r.target), nil
	}
	return nil, []state{s}
}
