package elements

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// encodeKey is what the kernel holds of a key, the reverse of decodeKey.
func encodeKey(t testing.TB, key string) []byte {
	t.Helper()
	numbers := map[string]byte{"tcp": 6, "udp": 17, "sctp": 132}
	var out []byte
	parts := strings.Split(key, " . ")
	for _, part := range parts {
		var raw []byte
		if a, err := netip.ParsePrefix(part); err == nil {
			raw = a.Addr().AsSlice()
		} else if a, err := netip.ParseAddr(part); err == nil {
			raw = a.AsSlice()
		} else if n, ok := numbers[part]; ok {
			raw = []byte{n}
		} else {
			port, err := strconv.ParseUint(part, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			raw = binary.BigEndian.AppendUint16(nil, uint16(port))
		}
		for len(parts) > 1 && len(raw)%4 != 0 {
			raw = append(raw, 0)
		}
		out = append(out, raw...)
	}
	return out
}

// observe is what the kernel tells of a table.
func observe(t testing.TB, whole *Table) *Observed {
	t.Helper()
	table := whole.List()
	out := &Observed{Chains: map[string]ObservedChain{}, Sets: map[string]ObservedSet{}}
	handle := uint64(0)
	for _, name := range sorted(table.Chains, nil) {
		c := ObservedChain{Base: table.Chains[name].Base != nil, Rules: []uint64{}}
		for range table.Chains[name].Rules {
			handle++
			c.Rules = append(c.Rules, handle)
		}
		out.Chains[name] = c
	}
	for name, set := range table.Sets {
		s := ObservedSet{Map: set.Map, Timeout: set.Timeout}
		for _, e := range set.Elements {
			s.Elements = append(s.Elements, RawElement{Key: encodeKey(t, e.Key), Verdict: e.Verdict})
			if set.Interval {
				s.Elements = append(s.Elements, RawElement{Key: []byte{255, 255, 255, 255}, IntervalEnd: true})
			}
		}
		out.Sets[name] = s
	}
	return out
}

func TestDriftIsFound(t *testing.T) {
	for _, s := range snapshots(t) {
		if len(s.Services) == 0 {
			continue // of the other family
		}
		for _, places := range []snapshot.Places{
			{All: true}, {Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.77.0/24")}},
		} {
			some := *s
			some.NodePorts = places
			table := Render(&some, testOptions(corev1.IPv4Protocol))
			before := observe(t, table)
			if drift := Drift(observe(t, table), before, table); drift != nil {
				t.Fatalf("drift of an untouched table: %v", drift)
			}
			for what, change := range map[string]func(*Observed){
				"chain services is missing":         func(o *Observed) { delete(o.Chains, chainServices) },
				"chain services has other rules":    func(o *Observed) { o.Chains[chainServices] = ObservedChain{Rules: []uint64{1}} },
				"chain masquerading has other rule": func(o *Observed) { o.Chains[chainMasquerading].Rules[0] = 9999 },
				"set cluster-ips is missing":        func(o *Observed) { delete(o.Sets, setClusterIPs) },
				"of cluster-ips is missing": func(o *Observed) {
					set := o.Sets[setClusterIPs]
					set.Elements = nil
					o.Sets[setClusterIPs] = set
				},
				"cluster-ips has foreign elements": func(o *Observed) {
					set := o.Sets[setClusterIPs]
					set.Elements = append(set.Elements, RawElement{Key: []byte{1, 2, 3, 4}})
					o.Sets[setClusterIPs] = set
				},
			} {
				kernel := observe(t, table)
				change(kernel)
				if drift := Drift(kernel, before, table); len(drift) != 1 || !strings.Contains(drift[0], what) {
					t.Errorf("drift %v, want %q", drift, what)
				}
			}
		}
	}
}

func TestDriftOfVerdict(t *testing.T) {
	s := snapshots(t)[1]
	table := Render(s, testOptions(corev1.IPv4Protocol))
	kernel := observe(t, table)
	kernel.Sets[mapServiceIPs].Elements[0].Verdict = "drop"
	if drift := Drift(kernel, nil, table); len(drift) != 1 || !strings.Contains(drift[0], "has another verdict") {
		t.Errorf("drift %v", drift)
	}
}

func TestUDPFrontends(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	kernel := &Observed{Sets: map[string]ObservedSet{
		mapServiceIPs:  {Elements: []RawElement{{Key: encodeKey(t, "10.96.0.10 . udp . 53")}, {Key: encodeKey(t, "10.96.0.10 . tcp . 53")}}},
		mapNoNodePorts: {Elements: []RawElement{{Key: encodeKey(t, "udp . 30053")}}},
		mapNoEndpoints: {Elements: []RawElement{{Key: encodeKey(t, "10.96.0.9 . udp . 99")}}},
	}}
	var got []string
	for _, p := range UDPFrontends(kernel, o) {
		got = append(got, p.Addr.String()+":"+strconv.Itoa(int(p.Port)))
	}
	if want := "invalid IP:30053 10.96.0.9:99 10.96.0.10:53"; strings.Join(got, " ") != want {
		t.Errorf("frontends %v, want %s", got, want)
	}
}

func FuzzDecodeKey(f *testing.F) {
	types := []string{"ipv4_addr", "ipv6_addr", "ipv4_addr . inet_proto . inet_service", "inet_proto . inet_service", "ipv6_addr . ipv6_addr . inet_proto . inet_service"}
	for i, key := range []string{"10.0.0.1", "fd00::1", "10.0.0.1 . tcp . 80", "sctp . 30000", "fd00::1 . fd00::2 . udp . 53"} {
		f.Add(i, encodeKey(f, key))
	}
	f.Fuzz(func(t *testing.T, kind int, raw []byte) {
		typ := types[uint(kind)%uint(len(types))]
		key, ok := decodeKey(typ, raw)
		if !ok {
			return
		}
		if strings.Count(key, " . ") != strings.Count(typ, " . ") {
			t.Errorf("%q is no key of type %q", key, typ)
		}
		if p, ok := udpFrontend(key); ok && (p.Port == 0 || p.Protocol != corev1.ProtocolUDP) {
			t.Errorf("%v is no frontend of UDP", p)
		}
	})
}
