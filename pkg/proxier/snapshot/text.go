package snapshot

import (
	"fmt"
	"net/netip"
	"strings"
)

// String is the snapshot as text, with a line for each port and each endpoint. The
// letters of an endpoint: L local, R ready, S serving, T terminating; after them the
// policies that use it.
func (s *Snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s snapshot for node %s\n", s.Family, quote(s.Node.Name))
	for _, svc := range s.Services {
		svc.write(&b)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	return b.String()
}

func (s *Service) write(b *strings.Builder) {
	fmt.Fprintf(b, "service %s/%s", s.Namespace, s.Name)
	if s.HealthCheckNodePort != 0 {
		fmt.Fprintf(b, " healthCheckNodePort=%d localReady=%d", s.HealthCheckNodePort, s.LocalReady)
	}
	for _, t := range s.Triggers {
		fmt.Fprintf(b, " trigger[%s]=%s", t.Slice, t.At.UTC().Format("15:04:05.000"))
	}
	b.WriteByte('\n')
	for _, p := range s.Ports {
		p.write(b)
	}
}

func (p *Port) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %s %s %s", p.Name, p.Protocol, netip.AddrPortFrom(p.ClusterIP, p.Port))
	if p.NodePort != 0 {
		fmt.Fprintf(b, " nodePort=%d", p.NodePort)
	}
	for _, list := range []struct {
		name string
		n    int
		v    any
	}{
		{"external", len(p.ExternalIPs), p.ExternalIPs},
		{"loadBalancer", len(p.LoadBalancerIPs), p.LoadBalancerIPs},
		{"from", len(p.SourceRanges), p.SourceRanges},
	} {
		if list.n > 0 {
			fmt.Fprintf(b, " %s=%v", list.name, list.v)
		}
	}
	for _, flag := range []struct {
		name string
		on   bool
	}{
		{"internalLocal", p.InternalLocal},
		{"externalLocal", p.ExternalLocal},
		{"nodeInSourceRanges", p.NodeInSourceRanges},
		{"noEndpoints", !p.HasEndpoints},
	} {
		if flag.on {
			b.WriteString(" " + flag.name)
		}
	}
	if p.AffinitySeconds > 0 {
		fmt.Fprintf(b, " affinity=%ds", p.AffinitySeconds)
	}
	b.WriteByte('\n')
	for _, e := range p.Endpoints {
		fmt.Fprintf(b, "    %s %s%s%s\n", e.AddrPort, e.letters(), used(p.Cluster, e, " cluster"), used(p.Local, e, " local"))
	}
}

func (e Endpoint) letters() string {
	out := []byte("----")
	for i, on := range []bool{e.Local, e.Ready, e.Serving, e.Terminating} {
		if on {
			out[i] = "LRST"[i]
		}
	}
	return string(out)
}

func used(list []Endpoint, e Endpoint, word string) string {
	for _, x := range list {
		if x.AddrPort == e.AddrPort {
			return word
		}
	}
	return ""
}
