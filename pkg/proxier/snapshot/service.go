// Package snapshot is PURE: it turns Services, EndpointSlices and what is known
// of this node into one immutable Snapshot per IP family: which addresses and
// ports exist, which endpoints each has, and which of them this node may use. It
// decides readiness, termination, topology and traffic policy, so that backends
// only translate. It reads API objects, writes nothing, and never sees the kernel.
//
// The input comes from anyone who may write Services or EndpointSlices, so
// everything is validated here: what is foreign, dangerous or impossible is left
// out and listed in Problems; the rest is programmed.
package snapshot

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is what the services half must know of the node it runs on.
type Node struct {
	// Name is the Node object's name; endpoints with that nodeName are local.
	Name string
	// Zone is the label topology.kubernetes.io/zone; empty: no zone hints are used.
	Zone string
	// Addresses are those of the Node object, of both families, the primary one of each first.
	Addresses []netip.Addr
	// Local are all addresses of the machine, of both families, sorted, as the kernel has them.
	Local []netip.Addr
	// PodCIDRs are the ranges of its pods, as the control plane has assigned them; often none.
	PodCIDRs []netip.Prefix
	// Unready are pods of this node that have become unready, or terminate, before the API says
	// so. Their endpoints are used only where there is no other; Services that publish the
	// addresses of unready pods keep them.
	Unready map[types.UID]bool
}

// Snapshot is everything a backend programs, for one IP family. It and all it
// points to are never changed after Build has returned it, and a Service that
// did not change since the last snapshot of the same Builder is the same
// pointer.
type Snapshot struct {
	Family corev1.IPFamily
	// Node is the view that the choices were made for.
	Node Node
	// NodePorts are the addresses on which node ports answer.
	NodePorts Places
	// Services are sorted by namespace, then name. Headless and ExternalName
	// Services, and those for another proxy, are not in it.
	Services []*Service
	// Problems of the input, in the order of Services.
	Problems []Problem
}

// Frontend is one of the places where a Service answers: an address and port, or a node port.
type Frontend struct {
	Protocol corev1.Protocol
	// Addr is a cluster IP, external IP or load balancer's IP; the zero value: Port is a node
	// port.
	Addr netip.Addr
	Port uint16
}

// Service is one Service of the API that has an address of the family.
type Service struct {
	Namespace, Name string
	// Ports are sorted by name, then protocol.
	Ports []*Port
	// HealthCheckNodePort is 0 unless the Service is a load balancer with
	// externalTrafficPolicy Local.
	HealthCheckNodePort uint16
	// LocalReady counts addresses of ready endpoints on this node.
	LocalReady int
	// Triggers say when the changes that led to its slices happened.
	Triggers []Trigger

	problems []Problem
	created  time.Time
}

// Port is one port of a Service with the endpoints chosen for this node.
type Port struct {
	// Name is namespace/name:port, or namespace/name for an unnamed port.
	Name     string
	Protocol corev1.Protocol // TCP, UDP or SCTP

	ClusterIP       netip.Addr
	Port            uint16
	NodePort        uint16 // 0: none
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr // those with ipMode VIP
	// SourceRanges limit who may use LoadBalancerIPs; empty: everyone.
	SourceRanges []netip.Prefix
	// NodeInSourceRanges says that an address of this node is among them.
	NodeInSourceRanges bool

	InternalLocal bool // internalTrafficPolicy Local
	ExternalLocal bool // externalTrafficPolicy Local
	// AffinitySeconds is how long a client sticks to its endpoint; 0: not at all.
	AffinitySeconds int32

	// Endpoints are all valid ones, sorted by address and port, whatever their state.
	Endpoints []Endpoint
	// Cluster are those to use where the policy is Cluster, Local where it is
	// Local; Reachable is their union. Each is nil if the policy is not in use.
	Cluster, Local, Reachable []Endpoint
	// HasEndpoints says that the Service has usable endpoints on some node,
	// even if none may be used from here (then traffic is dropped, not rejected).
	HasEndpoints bool
}

// Endpoint is one address and port behind a Port.
type Endpoint struct {
	netip.AddrPort
	// Local: on this node.
	Local bool
	// Ready, Serving and Terminating are the conditions of the API, with their
	// defaults applied (KEP-1672).
	Ready, Serving, Terminating bool

	pod   types.UID
	hints *discoveryv1.EndpointHints // of the API's object; nil: none
}

// Trigger is the annotation endpoints.kubernetes.io/last-change-trigger-time of a slice.
type Trigger struct {
	Slice string
	At    time.Time
}

// Problem is something in the input that was left out, for log, metric and status.
type Problem struct {
	// Object is Kind namespace/name.
	Object string
	// Reason is a sentence without an end.
	Reason string
}

// String is "Kind namespace/name: reason".
func (p Problem) String() string { return p.Object + ": " + p.Reason }

// ExternallyAccessible says whether anything but the cluster IP leads to the port.
func (p *Port) ExternallyAccessible() bool {
	return p.NodePort != 0 || len(p.LoadBalancerIPs) > 0 || len(p.ExternalIPs) > 0
}

// UsesCluster says whether some traffic follows policy Cluster. Even with
// externalTrafficPolicy Local the node's own and its pods' traffic to an
// external address does.
func (p *Port) UsesCluster() bool { return !p.InternalLocal || p.ExternallyAccessible() }

// UsesLocal says whether some traffic follows policy Local.
func (p *Port) UsesLocal() bool {
	return p.InternalLocal || p.ExternalLocal && p.ExternallyAccessible()
}

// InternalEndpoints are the ones for traffic to the cluster IP.
func (p *Port) InternalEndpoints() []Endpoint {
	if p.InternalLocal {
		return p.Local
	}
	return p.Cluster
}

// ExternalEndpoints are the ones for traffic from elsewhere to node ports,
// load-balancer and external addresses.
func (p *Port) ExternalEndpoints() []Endpoint {
	if p.ExternalLocal {
		return p.Local
	}
	return p.Cluster
}

// EndpointCount is the number of reachable endpoints of all ports.
func (s *Snapshot) EndpointCount() int {
	n := 0
	for _, svc := range s.Services {
		for _, port := range svc.Ports {
			n += len(port.Reachable)
		}
	}
	return n
}

// NodePortAddresses are the addresses of this machine on which node ports answer, sorted.
func (s *Snapshot) NodePortAddresses() []netip.Addr {
	var out []netip.Addr
	for _, a := range s.Node.Local {
		if isFamily(a, s.Family) && s.NodePorts.Has(a) {
			out = append(out, a)
		}
	}
	return out
}

func portName(namespace, name, port string) string {
	if port == "" {
		return namespace + "/" + name
	}
	return namespace + "/" + name + ":" + port
}

func quote(s string) string { return strconv.Quote(s) }

// LeftOutError says that a backend has programmed everything but the ports that Problems name.
type LeftOutError struct {
	Problems []Problem
}

// LeftOut is the error for ports whose rules the kernel refused, by why; nil if there are none.
func LeftOut(refused map[*Port]string) error {
	if len(refused) == 0 {
		return nil
	}
	out := &LeftOutError{}
	for p, why := range refused {
		out.Problems = append(out.Problems, Problem{Object: "Service port " + p.Name + " " + string(p.Protocol), Reason: why})
	}
	slices.SortFunc(out.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return out
}

// Error names the first, and how many more there are.
func (e *LeftOutError) Error() string {
	if len(e.Problems) == 0 {
		return "rules were left out"
	}
	more := ""
	if n := len(e.Problems) - 1; n > 0 {
		more = " (and " + strconv.Itoa(n) + " more)"
	}
	return "leaving out the rules of " + e.Problems[0].String() + more
}
