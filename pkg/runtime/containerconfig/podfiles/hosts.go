// Package podfiles is PURE: the contents of a pod's /etc/hosts, /etc/hostname and /etc/resolv.conf,
// and its host name, from the pod, the texts of the node's own files and the cluster's DNS
// settings.
package podfiles

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Linux limits a host name in the UTS namespace to 64 bytes; DNS limits a label to 63.
const (
	maxLabel    = 63
	maxNodename = 64
)

// Host is a pod's name in the network.
type Host struct {
	Name   string
	Domain string // "" without spec.subdomain
}

// HostOf is the pod's host name and domain: spec.hostnameOverride, spec.hostname or the pod's name,
// cut to 63 characters; with spec.subdomain the domain is <subdomain>.<namespace>.svc.<cluster
// domain>.
func HostOf(pod *corev1.Pod, clusterDomain string) (Host, error) {
	name := pod.Name
	switch {
	case pod.Spec.HostnameOverride != nil:
		name = *pod.Spec.HostnameOverride
	case pod.Spec.Hostname != "":
		name = pod.Spec.Hostname
	}
	if len(name) > maxLabel {
		name = strings.TrimRight(name[:maxLabel], "-.")
	}
	if name == "" {
		return Host{}, fmt.Errorf("hostname for pod %q was invalid: it is empty", pod.Name)
	}
	host := Host{Name: name}
	if pod.Spec.Subdomain != "" && pod.Spec.HostnameOverride == nil {
		host.Domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return host, nil
}

// Nodename is the host name of the UTS namespace: the short name, or the full one with
// spec.setHostnameAsFQDN.
func (h Host) Nodename(fqdn *bool) (string, error) {
	if fqdn == nil || !*fqdn || h.Domain == "" {
		return h.Name, nil
	}
	full := h.Name + "." + h.Domain
	if len(full) > maxNodename {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			full, maxNodename, len(full))
	}
	return full, nil
}

// Hosts is the /etc/hosts of a pod with its own network.
func Hosts(pod *corev1.Pod, h Host, ips []netip.Addr) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n")
	for _, ip := range ips {
		if h.Domain == "" {
			fmt.Fprintf(&b, "%s\t%s\n", ip, h.Name)
		} else {
			fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, h.Name, h.Domain, h.Name)
		}
	}
	aliases(&b, pod)
	return b.String()
}

// NodeHosts is the /etc/hosts of a pod in the host network: the text of the node's own file, and
// the pod's aliases.
func NodeHosts(pod *corev1.Pod, node string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file (host network).\n" + node)
	aliases(&b, pod)
	return b.String()
}

func aliases(b *strings.Builder, pod *corev1.Pod) {
	if len(pod.Spec.HostAliases) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
}
