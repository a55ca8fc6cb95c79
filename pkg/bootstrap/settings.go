package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// settings are a cluster's settings, as the two documents that kubelet and kube-proxy of its nodes
// read. from names their sources; left lists, with reasons, those that this node does not use.
type settings struct {
	kubelet, proxy map[string]any
	from, left     []string
}

// machine says what decides which of the cluster's settings fit this machine.
type machine struct {
	// Systemd: systemd runs here. Resolved: the resolver file is systemd-resolved's stub, and
	// resolvedFile has the real servers.
	Systemd, Resolved bool
}

// resolvedFile has the servers that systemd-resolved asks. /etc/resolv.conf names resolved itself,
// on a loopback address that no pod reaches; CoreDNS would forward to itself and stop at its loop
// check.
const resolvedFile = "/run/systemd/resolve/resolv.conf"

// readSettings reads kubeadm's ConfigMaps, with each client in turn, and the DNS Service. What may
// not be read is left out: flags, --config or the defaults decide then.
func readSettings(ctx context.Context, m machine, clients ...kubernetes.Interface) settings {
	s := settings{kubelet: map[string]any{}, proxy: map[string]any{}}
	for _, client := range clients {
		if client != nil {
			s.fromConfigMaps(ctx, client)
		}
	}
	for _, client := range clients {
		if s.kubelet["clusterDNS"] != nil || client == nil {
			continue
		}
		svc, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
		if err == nil && svc.Spec.ClusterIP != "" {
			s.add("service kube-dns", s.kubelet, map[string]any{"clusterDNS": []any{svc.Spec.ClusterIP}})
		}
	}
	if s.kubelet["clusterDNS"] != nil && s.kubelet["clusterDomain"] == nil {
		s.kubelet["clusterDomain"] = "cluster.local"
	}
	s.fit(m)
	s.prove()
	return s
}

// add adds the values of a document for fields that have none yet.
func (s *settings) add(from string, into, doc map[string]any) {
	took := false
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if _, there := into[name]; !there && name != "apiVersion" && name != "kind" && !unset(doc[name]) {
			into[name] = doc[name]
			took = true
		}
	}
	if took && !slices.Contains(s.from, from) {
		s.from = append(s.from, from)
	}
}

// unset reports whether a value is one that kubeadm writes for an unset field: null, "", 0s, or a
// mapping of these.
func unset(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s"
	case map[string]any:
		for _, inner := range v {
			if !unset(inner) {
				return false
			}
		}
		return true
	}
	return false
}

func (s *settings) fromConfigMaps(ctx context.Context, client kubernetes.Interface) {
	read := func(name, key string) map[string]any {
		m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		var doc map[string]any
		if err != nil || yaml.Unmarshal([]byte(m.Data[key]), &doc) != nil {
			return nil
		}
		return doc
	}
	s.add("kubelet-config", s.kubelet, read("kubelet-config", "kubelet"))
	s.add("kube-proxy", s.proxy, read("kube-proxy", "config.conf"))
	cluster, _ := read("kubeadm-config", "ClusterConfiguration")["networking"].(map[string]any)
	if domain := cluster["dnsDomain"]; domain != nil {
		s.add("kubeadm-config", s.kubelet, map[string]any{"clusterDomain": domain})
	}
	if subnet, ok := cluster["podSubnet"].(string); ok {
		s.add("kubeadm-config", s.proxy, map[string]any{"clusterCIDR": validCIDRs(subnet)})
	}
}

// fit removes settings of one machine rather than of the cluster, and those that are impossible on
// this one.
func (s *settings) fit(m machine) {
	for name, why := range map[string]string{
		// each node has its own
		"containerRuntimeEndpoint": "", "imageServiceEndpoint": "", "resolvConf": "", "providerID": "", "podCIDR": "",
		"tlsCertFile": "each node has its own", "tlsPrivateKeyFile": "each node has its own",
	} {
		s.drop(s.kubelet, name, why)
	}
	// the default is the CA that join has verified
	if a, ok := s.kubelet["authentication"].(map[string]any); ok {
		delete(a, "x509")
	}
	if s.kubelet["cgroupDriver"] == "systemd" && !m.Systemd {
		s.drop(s.kubelet, "cgroupDriver", "systemd does not run here")
	}
	if m.Resolved {
		s.kubelet["resolvConf"] = resolvedFile
	}
	for _, name := range []string{"clientConnection", "hostnameOverride"} {
		s.drop(s.proxy, name, "")
	}
	// a wrong address does not remove the others
	if dns, ok := s.kubelet["clusterDNS"].([]any); ok {
		good := slices.DeleteFunc(slices.Clone(dns), func(a any) bool { _, err := netip.ParseAddr(fmt.Sprint(a)); return err != nil })
		if s.kubelet["clusterDNS"] = good; len(good) == 0 {
			s.drop(s.kubelet, "clusterDNS", "it has no address")
		}
	}
}

// drop removes a value and, if there is a reason, notes it.
func (s *settings) drop(doc map[string]any, name, why string) {
	if _, there := doc[name]; !there {
		return
	}
	delete(doc, name)
	if why != "" {
		s.left = append(s.left, name+" ("+why+")")
	}
}

// prove removes what the daemon would refuse, since a mistake in the cluster's settings must not
// keep it from starting, and notes the rest that it uses differently.
func (s *settings) prove() {
	for range len(s.kubelet) + len(s.proxy) + 1 { // each round removes at least one
		text, err := s.documents()
		if err != nil {
			return
		}
		_, notes, err := config.Resolve([]config.Source{{Name: "cluster", Data: text}}, &config.Flags{}, config.Host{Hostname: "node"})
		var wrong config.Errors
		if !errors.As(err, &wrong) {
			s.note(notes)
			return
		}
		for _, e := range wrong {
			name, _, _ := strings.Cut(e.Field, ".")
			s.drop(s.kubelet, name, e.Problem)
			s.drop(s.proxy, name, e.Problem)
		}
	}
}

func (s *settings) note(notes []config.Note) {
	for _, n := range notes {
		_, field, _ := strings.Cut(n.Field, ".")
		if text := field + " (" + n.Fate + ")"; !slices.Contains(s.left, text) {
			s.left = append(s.left, text)
		}
	}
}

func validCIDRs(text string) string {
	var good []string
	for c := range strings.SplitSeq(text, ",") {
		if p, err := netip.ParsePrefix(strings.TrimSpace(c)); err == nil {
			good = append(good, p.String())
		}
	}
	return strings.Join(good, ",")
}

// String is a line for people.
func (s settings) String() string {
	var parts []string
	shown := 0
	for _, p := range []struct {
		name, field string
		doc         map[string]any
	}{
		{"dns", "clusterDNS", s.kubelet},
		{"domain", "clusterDomain", s.kubelet},
		{"pod CIDR", "clusterCIDR", s.proxy},
		{"proxy mode", "mode", s.proxy},
		{"static pods", "staticPodPath", s.kubelet},
		{"resolver file", "resolvConf", s.kubelet},
	} {
		if v, ok := p.doc[p.field]; ok {
			shown++
			parts = append(parts, p.name+" "+strings.Join(strings.Fields(strings.Trim(fmt.Sprint(v), "[]")), ","))
		}
	}
	if more := len(s.kubelet) + len(s.proxy) - shown; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	if len(parts) == 0 {
		return "none found, using defaults"
	}
	line := strings.Join(parts, ", ")
	if len(s.from) > 0 {
		line += " (from " + strings.Join(s.from, ", ") + ")"
	}
	if len(s.left) > 0 {
		line += "; not used as they are: " + strings.Join(s.left, ", ")
	}
	return line
}

// documents are the settings as the text of a configuration file.
func (s settings) documents() ([]byte, error) {
	text := []byte("# Written by nodeagent join: the cluster's settings. Put your own settings into another file of this folder:\n" +
		"# files later in the alphabet win. To read the cluster's settings again, remove this file and join again.\n")
	for i, d := range []struct {
		version, kind string
		values        map[string]any
	}{
		{"kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", s.kubelet},
		{"kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", s.proxy},
	} {
		doc := maps.Clone(d.values)
		if doc == nil {
			doc = map[string]any{}
		}
		doc["apiVersion"], doc["kind"] = d.version, d.kind
		b, err := yaml.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("encoding the cluster's settings: %w", err)
		}
		if i > 0 {
			text = append(text, "---\n"...)
		}
		text = append(text, b...)
	}
	return text, nil
}
