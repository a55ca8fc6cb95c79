package elements

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Observed is what the kernel has of the table.
type Observed struct {
	Chains map[string]ObservedChain
	// Sets are named sets and maps.
	Sets map[string]ObservedSet
}

// ObservedChain is one chain in the kernel.
type ObservedChain struct {
	Base bool
	// Rules are the handles of its rules, in order. A rule never changes: another one has another
	// handle.
	Rules []uint64
}

// ObservedSet is one set or map in the kernel.
type ObservedSet struct {
	Map     bool
	Timeout time.Duration
	// Elements are as the kernel writes them; nil: they were not read.
	Elements []RawElement
}

// RawElement is one element as the kernel writes it.
type RawElement struct {
	Key     []byte
	Verdict string
	// IntervalEnd says that it is the end of a range.
	IntervalEnd bool
}

// Read says whether Drift needs the elements of a set.
func Read(set string) bool {
	return slices.Contains([]string{mapServiceIPs, mapNodePorts, mapNoEndpoints, mapNoNodePorts, mapFirewallIPs, setClusterIPs, setNodePortIPs, setHairpin}, set)
}

// Drift lists how the kernel differs from a table, at most a few for each chain or
// set: chains, rules, sets and elements that are missing or are others. before,
// if not nil, is what the kernel had right after the table was written; it tells
// rules that were replaced. Further chains and sets are no drift.
// nil: no difference.
func Drift(kernel, before *Observed, table *Table) []string {
	var out []string
	want := table.List()
	for _, name := range sorted(want.Chains, nil) {
		c := want.Chains[name]
		k, has := kernel.Chains[name]
		known := before != nil && before.Chains[name].Rules != nil
		switch {
		case !has:
			out = append(out, "chain "+name+" is missing")
		case len(k.Rules) != len(c.Rules), known && !slices.Equal(k.Rules, before.Chains[name].Rules), k.Base != (c.Base != nil):
			out = append(out, "chain "+name+" has other rules")
		}
	}
	for _, name := range sorted(want.Sets, nil) {
		k, has := kernel.Sets[name]
		if !has {
			out = append(out, "set "+name+" is missing")
			continue
		}
		if w := want.Sets[name]; w.Timeout == 0 {
			out = append(out, driftOfSet(w, k.Elements)...)
		}
	}
	return out
}

func driftOfSet(want *Set, kernel []RawElement) []string {
	have := Decode(want, kernel)
	missing, other := "", ""
	count := 0
	for _, e := range want.Elements {
		key := e.Key
		if want.Interval {
			key, _, _ = strings.Cut(key, "/") // where the range begins
		}
		verdict, has := have[key]
		switch {
		case !has:
			missing = key
		case verdict != e.Verdict:
			other = key
		default:
			count++
		}
	}
	switch {
	case missing != "":
		return []string{fmt.Sprintf("element %s of %s is missing", missing, want.Name)}
	case other != "":
		return []string{fmt.Sprintf("element %s of %s has another verdict", other, want.Name)}
	case count != len(have):
		return []string{want.Name + " has foreign elements"}
	}
	return nil
}

// Decode are the elements of a set by key, with their verdicts. Ends of ranges, and keys that are
// not of the set's type, are left out.
func Decode(s *Set, raw []RawElement) map[string]string {
	out := make(map[string]string, len(raw))
	for _, e := range raw {
		if e.IntervalEnd {
			continue
		}
		if key, ok := decodeKey(s.Type, e.Key); ok {
			out[key] = e.Verdict
		}
	}
	return out
}

// decodeKey writes a key as nftables does. In a key of several parts each takes a multiple of four
// bytes.
func decodeKey(typ string, raw []byte) (string, bool) {
	parts := strings.Split(typ, " . ")
	out := make([]string, len(parts))
	for i, part := range parts {
		var text string
		var size int
		switch {
		case part == "ipv4_addr" && len(raw) >= 4, part == "ipv6_addr" && len(raw) >= 16:
			size = 4
			if part == "ipv6_addr" {
				size = 16
			}
			a, _ := netip.AddrFromSlice(raw[:size])
			text = a.String()
		case part == "inet_proto" && len(raw) >= 1:
			text, size = protocolName(raw[0]), 1
		case part == "inet_service" && len(raw) >= 2:
			text, size = strconv.Itoa(int(binary.BigEndian.Uint16(raw))), 2
		default:
			return "", false
		}
		out[i] = text
		if len(parts) > 1 {
			size = (size + 3) / 4 * 4
		}
		raw = raw[min(size, len(raw)):]
	}
	return strings.Join(out, " . "), len(raw) == 0
}

// protocolName is that of an IP protocol's number.
func protocolName(number byte) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(number))
}

// UDPFrontends are the places where Services answer UDP by the table that the kernel has, ours or
// a kube-proxy's. They are sorted.
func UDPFrontends(kernel *Observed, o Options) []snapshot.Frontend {
	found := map[snapshot.Frontend]bool{}
	for _, s := range fixedSets(nodeOptions{Options: o}) {
		if !s.Map || s.Name == mapFirewallIPs {
			continue
		}
		for key := range Decode(s, kernel.Sets[s.Name].Elements) {
			if p, ok := udpFrontend(key); ok {
				found[p] = true
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

// udpFrontend reads a key: "10.96.0.10 . udp . 53", "udp . 30053".
func udpFrontend(key string) (p snapshot.Frontend, ok bool) {
	before, port, found := strings.Cut(key, "udp . ")
	if !found {
		return p, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return p, false
	}
	p = snapshot.Frontend{Protocol: corev1.ProtocolUDP, Port: uint16(n)}
	if before == "" {
		return p, true
	}
	p.Addr, err = netip.ParseAddr(strings.TrimSuffix(before, " . "))
	return p, err == nil
}
