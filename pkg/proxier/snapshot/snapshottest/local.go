package snapshottest

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Pods are the addresses of the cluster's pods in golden tests.
func Pods(f corev1.IPFamily) snapshot.LocalTraffic {
	if f == corev1.IPv6Protocol {
		return snapshot.LocalTraffic{CIDR: netip.MustParsePrefix("fd00:244::/32")}
	}
	return snapshot.LocalTraffic{CIDR: netip.MustParsePrefix("10.244.0.0/16")}
}

// Local is another way to tell the traffic of this node's pods, by a word in a golden test's
// options; false: the word is none of them.
func Local(word string) (snapshot.LocalTraffic, bool) {
	switch word {
	case "bridge":
		return snapshot.LocalTraffic{Interface: "cni0"}, true
	case "prefix":
		return snapshot.LocalTraffic{Interface: "veth", Prefix: true}, true
	case "noLocal":
		return snapshot.LocalTraffic{}, true
	case "nodeCIDR":
		return snapshot.LocalTraffic{NodeCIDR: true}, true
	}
	return snapshot.LocalTraffic{}, false
}
