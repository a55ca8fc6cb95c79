package snapshot

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

type portKey struct {
	name     string
	protocol corev1.Protocol
}

// collect returns every valid endpoint of the slices, by port, sorted. If an address
// is in two slices, as while the controller moves it, its better state counts.
func collect(sls []*discoveryv1.EndpointSlice, n Node, f corev1.IPFamily, r *report) map[portKey][]Endpoint {
	out := map[portKey][]Endpoint{}
	for _, slice := range sls {
		object := "EndpointSlice " + slice.Namespace + "/" + slice.Name
		for _, port := range slice.Ports {
			key, number, ok := endpointPort(port, object, r)
			if !ok {
				continue
			}
			if out[key] == nil {
				out[key] = make([]Endpoint, 0, len(slice.Endpoints))
			}
			for i := range slice.Endpoints {
				a, wrong := endpointAddress(&slice.Endpoints[i], f)
				if wrong != "" {
					r.addTo(object, "%s", wrong)
					continue
				}
				e := endpoint(&slice.Endpoints[i], a, number, n)
				if !fromReadiness(slice) {
					e.pod = ""
				}
				out[key] = append(out[key], e)
			}
		}
	}
	for key, list := range out {
		slices.SortStableFunc(list, func(a, b Endpoint) int {
			if c := a.Compare(b.AddrPort); c != 0 {
				return c
			}
			return rank(b) - rank(a)
		})
		out[key] = slices.CompactFunc(list, func(a, b Endpoint) bool { return a.AddrPort == b.AddrPort })
	}
	return out
}

// controller is the EndpointSlice controller of kube-controller-manager, which makes slices from
// the pods that a selector chooses.
const controller = "endpointslice-controller.k8s.io"

// fromReadiness says whether a slice's conditions follow the readiness of pods, which this node
// may know sooner. In a slice that somebody else wrote, or that mirrors Endpoints, its author
// decides about an endpoint, whatever pod it refers to.
func fromReadiness(slice *discoveryv1.EndpointSlice) bool {
	return slice.Labels[discoveryv1.LabelManagedBy] == controller
}

func rank(e Endpoint) int {
	switch {
	case e.Ready:
		return 3
	case e.Serving && e.Terminating:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

func endpointPort(p discoveryv1.EndpointPort, object string, r *report) (portKey, uint16, bool) {
	key := portKey{protocol: corev1.ProtocolTCP}
	if p.Name != nil {
		key.name = *p.Name
	}
	if p.Protocol != nil {
		key.protocol = protocolOf(*p.Protocol)
	}
	if p.Port == nil {
		r.addTo(object, "port %s has no number", quote(key.name))
		return key, 0, false
	}
	number, ok := validPort(*p.Port)
	if !ok {
		r.addTo(object, "port %s has number %s", quote(key.name), itoa(*p.Port))
	}
	return key, number, ok
}

// endpointAddress is the first one: the others have no meaning (KEP-752). The text
// says what is wrong with it, if anything is.
func endpointAddress(in *discoveryv1.Endpoint, f corev1.IPFamily) (netip.Addr, string) {
	if len(in.Addresses) == 0 {
		return netip.Addr{}, "an endpoint has no address"
	}
	a, ok := parseAddr(in.Addresses[0])
	if !ok {
		return a, "endpoint " + quote(in.Addresses[0]) + " is not an address"
	}
	if reason := unusable(a); reason != "" {
		return a, "endpoint " + a.String() + " " + reason
	}
	if !isFamily(a, f) {
		return a, "endpoint " + a.String() + " is not " + string(f)
	}
	return a, ""
}

func endpoint(in *discoveryv1.Endpoint, a netip.Addr, port uint16, n Node) Endpoint {
	c := in.Conditions
	out := Endpoint{
		AddrPort:    netip.AddrPortFrom(a, port),
		Local:       in.NodeName != nil && *in.NodeName == n.Name && n.Name != "",
		Ready:       c.Ready == nil || *c.Ready,
		Serving:     c.Serving == nil || *c.Serving,
		Terminating: c.Terminating != nil && *c.Terminating,
	}
	if in.TargetRef != nil && in.TargetRef.Kind == "Pod" {
		out.pod = in.TargetRef.UID
	}
	out.hints = in.Hints
	return out
}

// localReady does not count endpoints that have become unready here: load balancers learn it at
// once.
func localReady(byPort map[portKey][]Endpoint, n Node) int {
	seen := map[netip.Addr]bool{}
	for _, list := range byPort {
		for _, e := range list {
			if e.Local && e.Ready && !n.unready(e) {
				seen[e.Addr()] = true
			}
		}
	}
	return len(seen)
}

// categorize chooses among p.Endpoints for this node: ready ones, limited by
// topology hints; where there are none, those that serve while they terminate
// (KEP-1669), for the policies Cluster and Local separately.
func categorize(p *Port, n Node) {
	usable := markUnready(p.Endpoints, n)
	if p.UsesCluster() {
		p.Cluster = fallback(filter(usable, nearest(usable, n)), usable, anyEndpoint)
		p.HasEndpoints = len(p.Cluster) > 0
	}
	if !p.UsesLocal() {
		p.Reachable = p.Cluster
		return
	}
	p.Local = fallback(filter(usable, func(e Endpoint) bool { return e.Local && e.Ready }), usable, isLocal)
	if slices.ContainsFunc(usable, func(e Endpoint) bool { return e.Ready || e.Serving && e.Terminating }) {
		p.HasEndpoints = true
	}
	p.Reachable = union(p.Cluster, p.Local)
}

func anyEndpoint(Endpoint) bool { return true }

func isLocal(e Endpoint) bool { return e.Local }

func fallback(chosen, from []Endpoint, eligible func(Endpoint) bool) []Endpoint {
	if len(chosen) > 0 {
		return chosen
	}
	return filter(from, func(e Endpoint) bool { return e.Serving && e.Terminating && eligible(e) })
}

// unready says that e is ready by the API, but its pod has become unready on this node.
func (n Node) unready(e Endpoint) bool {
	return e.Ready && e.Local && e.pod != "" && n.Unready[e.pod]
}

// markUnready makes endpoints of pods that have become unready on this node count
// as terminating: they are used only where no ready one is left, for each policy
// by itself. So until the API knows, traffic always has an endpoint that the API
// would choose.
func markUnready(all []Endpoint, n Node) []Endpoint {
	if len(n.Unready) == 0 || !slices.ContainsFunc(all, n.unready) {
		return all
	}
	out := slices.Clone(all)
	for i := range out {
		if n.unready(out[i]) {
			out[i].Ready, out[i].Serving, out[i].Terminating = false, true, true
		}
	}
	return out
}

// nearest follows the hints of the endpoints controller, if every ready
// endpoint has one and one is meant for this node, or else for its zone
// (KEP-2433, KEP-3015).
func nearest(all []Endpoint, n Node) func(Endpoint) bool {
	node := hinted(all, func(h *discoveryv1.EndpointHints) (hints, here bool) {
		return len(h.ForNodes) > 0, slices.Contains(h.ForNodes, discoveryv1.ForNode{Name: n.Name})
	})
	if node != nil {
		return node
	}
	zone := hinted(all, func(h *discoveryv1.EndpointHints) (hints, here bool) {
		return len(h.ForZones) > 0, slices.Contains(h.ForZones, discoveryv1.ForZone{Name: n.Zone})
	})
	if zone != nil {
		return zone
	}
	return func(e Endpoint) bool { return e.Ready }
}

// hinted says which endpoints are meant for this node or zone; nil if there are no hints to
// follow. of says whether hints are of the kind in question, and whether this node or zone is
// among them.
func hinted(all []Endpoint, of func(*discoveryv1.EndpointHints) (hints, here bool)) func(Endpoint) bool {
	some := false
	for _, e := range all {
		if !e.Ready {
			continue
		}
		if e.hints == nil {
			return nil
		}
		hints, here := of(e.hints)
		if !hints {
			return nil
		}
		some = some || here
	}
	if !some {
		return nil
	}
	return func(e Endpoint) bool {
		if !e.Ready {
			return false
		}
		_, here := of(e.hints)
		return here
	}
}

// filter returns list itself if all are kept, as nearly always: then nothing is stored twice.
func filter(list []Endpoint, keep func(Endpoint) bool) []Endpoint {
	if len(list) > 0 && !slices.ContainsFunc(list, func(e Endpoint) bool { return !keep(e) }) {
		return list[:len(list):len(list)]
	}
	var out []Endpoint
	for _, e := range list {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

// union merges two sorted lists.
func union(a, b []Endpoint) []Endpoint {
	if len(b) == 0 {
		return a
	}
	out := append(slices.Clone(a), b...)
	slices.SortStableFunc(out, func(x, y Endpoint) int { return x.Compare(y.AddrPort) })
	return slices.CompactFunc(out, func(x, y Endpoint) bool { return x.AddrPort == y.AddrPort })
}
