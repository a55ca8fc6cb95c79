package podfiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Limits that resolvers are known to support (the API server validates dnsConfig by the same).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
	maxDomain      = 253
)

// ResolvConf is the parsed content of a resolver file.
type ResolvConf struct {
	Nameservers, Searches, Options []string
}

// ParseResolvConf reads a resolver file (resolv.conf(5)): name servers add up, the last search line
// wins, a later option replaces an earlier one of the same name. Unknown lines are dropped.
func ParseResolvConf(text string) ResolvConf {
	var r ResolvConf
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) > 1 {
				r.Nameservers = append(r.Nameservers, fields[1])
			}
		case "search":
			r.Searches = nil
			for _, s := range fields[1:] {
				if s = strings.TrimSuffix(s, "."); s != "" {
					r.Searches = append(r.Searches, s)
				}
			}
		case "options":
			for _, o := range fields[1:] {
				r.option(o)
			}
		}
	}
	return r
}

func (r *ResolvConf) option(o string) {
	name, _, _ := strings.Cut(o, ":")
	i := slices.IndexFunc(r.Options, func(have string) bool {
		other, _, _ := strings.Cut(have, ":")
		return other == name
	})
	if i >= 0 {
		r.Options[i] = o
		return
	}
	r.Options = append(r.Options, o)
}

// String is the file's text.
func (r ResolvConf) String() string {
	var b strings.Builder
	if len(r.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Searches, " "))
	}
	for _, n := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}

// DNS are the node's settings.
type DNS struct {
	Cluster []netip.Addr // the cluster's name servers
	Domain  string       // the cluster's domain
	// Host is the text of the node's resolver file. NoHost means that the node has none
	// (KubeletConfiguration.resolvConf is "").
	Host    string
	NoHost  bool
	NodeIPs []netip.Addr
}

// Warning says what was left out of a pod's resolver file, for an event.
type Warning struct{ Reason, Message string }

// Resolv builds the pod's resolver file from its dnsPolicy and dnsConfig, within the limits of
// resolvers: 3 name servers, 32 search domains of at most 253 and together at most 2048 characters.
func Resolv(pod *corev1.Pod, d DNS) (ResolvConf, []Warning) {
	var warnings []Warning
	host := ParseResolvConf(d.Host)
	policy := pod.Spec.DNSPolicy
	if policy == "" { // a pod from a file, which no API server has defaulted
		policy = corev1.DNSClusterFirst
	}
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	var r ResolvConf
	switch {
	case policy == corev1.DNSNone:
	case policy != corev1.DNSDefault && len(d.Cluster) > 0:
		r = clusterFirst(pod, d, host)
	default:
		if policy != corev1.DNSDefault {
			warnings = append(warnings, Warning{"MissingClusterDNS", fmt.Sprintf(
				"this node has no clusterDNS configured and cannot create Pod using %q policy. Falling back to %q policy.",
				corev1.DNSClusterFirst, corev1.DNSDefault)})
		}
		r = hostDefault(d, host)
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Nameservers = append(r.Nameservers, c.Nameservers...)
		r.Searches = append(r.Searches, c.Searches...)
		for _, o := range c.Options {
			r.option(optionText(o))
		}
	}
	return r.limit(warnings)
}

func clusterFirst(pod *corev1.Pod, d DNS, host ResolvConf) ResolvConf {
	r := ResolvConf{Options: []string{"ndots:5"}, Searches: host.Searches}
	for _, ip := range d.Cluster {
		r.Nameservers = append(r.Nameservers, ip.String())
	}
	if d.Domain != "" {
		own := []string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}
		r.Searches = append(own, host.Searches...)
	}
	return r
}

// hostDefault is the node's resolver file; without one, the local name server, as resolvers assume.
func hostDefault(d DNS, host ResolvConf) ResolvConf {
	if !d.NoHost {
		return host
	}
	r := ResolvConf{Searches: []string{"."}}
	for _, ip := range d.NodeIPs {
		if ip.Is6() && !ip.Is4In6() {
			r.Nameservers = append(r.Nameservers, "::1")
		} else {
			r.Nameservers = append(r.Nameservers, "127.0.0.1")
		}
	}
	if len(r.Nameservers) == 0 {
		r.Nameservers = []string{"127.0.0.1"}
	}
	return r
}

func optionText(o corev1.PodDNSConfigOption) string {
	if o.Value == nil || *o.Value == "" {
		return o.Name
	}
	return o.Name + ":" + *o.Value
}

func (r ResolvConf) limit(warnings []Warning) (ResolvConf, []Warning) {
	r.Nameservers, r.Searches = once(r.Nameservers), once(r.Searches)
	if len(r.Nameservers) > maxNameservers {
		r.Nameservers = r.Nameservers[:maxNameservers]
		warnings = append(warnings, Warning{"DNSConfigForming", fmt.Sprintf(
			"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s",
			strings.Join(r.Nameservers, " "))})
	}
	var kept []string
	chars := 0
	for _, s := range r.Searches {
		if len(s) > maxDomain || len(kept) == maxSearches {
			continue
		}
		if chars+len(s) > maxSearchChars {
			break
		}
		chars += len(s) + 1
		kept = append(kept, s)
	}
	if len(kept) != len(r.Searches) {
		warnings = append(warnings, Warning{"DNSConfigForming", fmt.Sprintf(
			"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s",
			strings.Join(kept, " "))})
	}
	r.Searches = kept
	return r, warnings
}

func once(list []string) []string {
	seen := make(map[string]bool, len(list))
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
