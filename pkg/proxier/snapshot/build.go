package snapshot

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// labelProxyName gives a Service or a slice to another proxy (KEP-2447).
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Build makes the Snapshot of family f; node ports answer on all addresses. The objects are only
// read; their order does not matter. Slices belong to a Service by their label
// kubernetes.io/service-name.
func Build(svcs []*corev1.Service, sls []*discoveryv1.EndpointSlice, n Node, f corev1.IPFamily) *Snapshot {
	return NewBuilder(f, NodePortAddresses{}).Build(svcs, sls, n)
}

// Builder is Build with a memory: a Service whose object, slices and node are
// the same pointers and values as last time is not computed again. The result
// is the same as that of Build. It is used by one goroutine.
type Builder struct {
	family    corev1.IPFamily
	nodePorts NodePortAddresses
	node      Node
	memo      map[types.NamespacedName]*remembered
	round     uint64
}

type remembered struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
	out    *Service // nil: nothing of this family
	round  uint64
	stale  bool // one of its pods became unready or ready
}

// NewBuilder returns an empty Builder for family f.
func NewBuilder(f corev1.IPFamily, nodePorts NodePortAddresses) *Builder {
	return &Builder{family: f, nodePorts: nodePorts, memo: map[types.NamespacedName]*remembered{}}
}

// Build is like the function Build.
func (b *Builder) Build(svcs []*corev1.Service, sls []*discoveryv1.EndpointSlice, n Node) *Snapshot {
	if !b.node.Same(n) || !maps.Equal(b.node.Unready, n.Unready) {
		b.forget(n)
		b.node = n.clone()
	}
	b.round++
	bySvc := groupSlices(sls, b.family)
	out := &Snapshot{Family: b.family, Node: b.node, NodePorts: b.nodePorts.At(b.family, b.node), Services: make([]*Service, 0, len(svcs))}
	for _, svc := range sorted(svcs) {
		if made := b.one(svc, bySvc); made != nil {
			out.Services = append(out.Services, made)
		}
	}
	maps.DeleteFunc(b.memo, func(_ types.NamespacedName, r *remembered) bool { return r.round != b.round })
	resolveConflicts(out)
	for _, svc := range out.Services {
		out.Problems = append(out.Problems, svc.problems...)
	}
	return out
}

// forget drops what is remembered of Services to which the change to node n matters.
func (b *Builder) forget(n Node) {
	if !b.node.chooses(n) {
		clear(b.memo)
		return
	}
	changed := func(pod types.UID) bool { return b.node.Unready[pod] != n.Unready[pod] }
	for _, r := range b.memo {
		r.stale = r.stale || slices.ContainsFunc(r.slices, func(s *discoveryv1.EndpointSlice) bool {
			return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.TargetRef != nil && changed(e.TargetRef.UID) })
		})
	}
}

func (b *Builder) one(svc *corev1.Service, bySvc map[types.NamespacedName][]*discoveryv1.EndpointSlice) *Service {
	key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	own := bySvc[key]
	if r := b.memo[key]; r != nil && !r.stale && r.svc == svc && slices.Equal(r.slices, own) {
		r.round = b.round
		return r.out
	}
	made := buildService(svc, own, b.node, b.family)
	b.memo[key] = &remembered{svc: svc, slices: own, out: made, round: b.round}
	return made
}

// Same says whether two views of a node are equal except for Unready.
func (n Node) Same(o Node) bool { return n.chooses(o) && slices.Equal(n.Local, o.Local) }

// chooses says whether two views lead to the same choices, except for Unready.
func (n Node) chooses(o Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}

func (n Node) clone() Node {
	n.Addresses, n.Local, n.PodCIDRs = slices.Clone(n.Addresses), slices.Clone(n.Local), slices.Clone(n.PodCIDRs)
	n.Unready = maps.Clone(n.Unready)
	return n
}

func byName(a, b *corev1.Service) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// sorted returns svcs by name; it copies only if they are not so already.
func sorted(svcs []*corev1.Service) []*corev1.Service {
	if slices.IsSortedFunc(svcs, byName) {
		return svcs
	}
	svcs = slices.Clone(svcs)
	slices.SortFunc(svcs, byName)
	return svcs
}

// groupSlices sorts the family's slices to their Services, in order of name.
func groupSlices(sls []*discoveryv1.EndpointSlice, f corev1.IPFamily) map[types.NamespacedName][]*discoveryv1.EndpointSlice {
	out := make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(sls))
	for _, slice := range sls {
		if string(slice.AddressType) != string(f) || !forUs(slice.Labels) {
			continue
		}
		if _, headless := slice.Labels[corev1.IsHeadlessService]; headless {
			continue
		}
		name := slice.Labels[discoveryv1.LabelServiceName]
		if name == "" {
			continue
		}
		key := types.NamespacedName{Namespace: slice.Namespace, Name: name}
		out[key] = append(out[key], slice)
	}
	for _, group := range out {
		slices.SortFunc(group, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

func forUs(labels map[string]string) bool {
	_, other := labels[labelProxyName]
	return !other
}

// buildService returns nil if svc has nothing to program for the family.
func buildService(svc *corev1.Service, sls []*discoveryv1.EndpointSlice, n Node, f corev1.IPFamily) *Service {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || !forUs(svc.Labels) {
		return nil
	}
	r := report{object: "Service " + portName(svc.Namespace, svc.Name, "")}
	vip := clusterIP(svc, f, &r)
	if !vip.IsValid() {
		return nil
	}
	out := &Service{Namespace: svc.Namespace, Name: svc.Name, created: svc.CreationTimestamp.Time, Triggers: triggers(sls)}
	if svc.Spec.PublishNotReadyAddresses {
		n.Unready = nil // it asks for unready pods
	}
	common := template(svc, f, vip, &r)
	common.NodeInSourceRanges = anyContains(common.SourceRanges, n.Addresses)
	endpoints := collect(sls, n, f, &r)
	seen := map[portKey]bool{}
	for i := range svc.Spec.Ports {
		spec := &svc.Spec.Ports[i]
		key := portKey{spec.Name, protocolOf(spec.Protocol)}
		port := newPort(svc, spec, common, &r)
		if port == nil {
			continue
		}
		if seen[key] {
			r.add("port %s %s is there twice", key.name, string(key.protocol))
			continue
		}
		seen[key] = true
		port.Endpoints = endpoints[key]
		categorize(port, n)
		out.Ports = append(out.Ports, port)
	}
	slices.SortStableFunc(out.Ports, func(a, b *Port) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	out.LocalReady = localReady(endpoints, n)
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && common.ExternalLocal {
		out.HealthCheckNodePort, _ = validPort(svc.Spec.HealthCheckNodePort)
	}
	out.problems = r.problems
	return out
}

// template holds what all ports of a Service share.
func template(svc *corev1.Service, f corev1.IPFamily, vip netip.Addr, r *report) Port {
	out := Port{ClusterIP: vip}
	out.InternalLocal = svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	external := svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer || len(svc.Spec.ExternalIPs) > 0
	out.ExternalLocal = external && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	out.AffinitySeconds = affinity(svc)
	out.ExternalIPs = addresses(svc.Spec.ExternalIPs, f, "external IP", r)
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		out.LoadBalancerIPs = loadBalancerIPs(svc, f, r)
	}
	if len(out.LoadBalancerIPs) > 0 {
		out.SourceRanges = sourceRanges(svc.Spec.LoadBalancerSourceRanges, f, r)
	}
	return out
}

func newPort(svc *corev1.Service, spec *corev1.ServicePort, common Port, r *report) *Port {
	port, ok := validPort(spec.Port)
	if !ok {
		r.add("port %s has number %s", quote(spec.Name), itoa(spec.Port))
		return nil
	}
	protocol := protocolOf(spec.Protocol)
	if protocol != corev1.ProtocolTCP && protocol != corev1.ProtocolUDP && protocol != corev1.ProtocolSCTP {
		r.add("port %s has unknown protocol %s", quote(spec.Name), quote(string(spec.Protocol)))
		return nil
	}
	out := common
	out.Name = portName(svc.Namespace, svc.Name, spec.Name)
	out.Protocol = protocol
	out.Port = port
	if svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if out.NodePort, ok = validPort(spec.NodePort); !ok && spec.NodePort != 0 {
			r.add("port %s has node port %s", quote(spec.Name), itoa(spec.NodePort))
		}
	}
	return &out
}

func protocolOf(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// affinity defaults to three hours, as the API server does.
func affinity(svc *corev1.Service) int32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	c := svc.Spec.SessionAffinityConfig
	if c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return *c.ClientIP.TimeoutSeconds
	}
	return corev1.DefaultClientIPServiceAffinitySeconds
}
