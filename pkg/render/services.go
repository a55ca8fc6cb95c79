package render

import (
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Rules are what a node would program.
type Rules struct {
	Snapshot *snapshot.Snapshot
	// Notes say which parts of the Services are ignored, and why.
	Notes []string
}

// Services builds the snapshot of all Services and EndpointSlices of the file for a node. A proxy
// mode's preview makes rules of it.
func Services(objects *Objects, n snapshot.Node, b *snapshot.Builder) (Rules, error) {
	if len(objects.Services) == 0 {
		return Rules{}, errors.New("rendering Services: there is none in the file")
	}
	s := b.Build(objects.Services, objects.Slices, n)
	r := Rules{Snapshot: s}
	known := map[string]bool{}
	for _, svc := range objects.Services {
		known[svc.Namespace+"/"+svc.Name] = true
		// The API server gives every Service one; without it nothing can be programmed.
		if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) == 0 && svc.Spec.Type != corev1.ServiceTypeExternalName {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: Service %s/%s has no spec.clusterIP: nothing is rendered for it", objects.Where(svc), svc.Namespace, svc.Name))
		}
	}
	for _, slice := range objects.Slices {
		if name := slice.Namespace + "/" + slice.Labels["kubernetes.io/service-name"]; !known[name] {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: EndpointSlice %s/%s belongs to Service %s by its label kubernetes.io/service-name, which is not in the file",
				objects.Where(slice), slice.Namespace, slice.Name, name))
		}
	}
	for _, p := range s.Problems {
		r.Notes = append(r.Notes, p.String())
	}
	return r, nil
}

// Node finds a Node of the file; with no name the only one. It is nil when there is none.
func (o *Objects) Node(name string) *corev1.Node {
	if name == "" && len(o.Nodes) == 1 {
		return o.Nodes[0]
	}
	for _, n := range o.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Addresses are the IP addresses that a Node reports, primary first.
func Addresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out = append(out, ip)
		}
	}
	return out
}
