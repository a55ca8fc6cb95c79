package podfiles_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/podfiles"
)

// An archive has pod.yaml and optionally node.yaml (the node's settings) and hosts (the node's
// file); want has the three files.
func TestFiles(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var pod corev1.Pod
		must(t, yaml.UnmarshalStrict(files["pod.yaml"], &pod))
		dns := podfiles.DNS{Domain: "cluster.local", Cluster: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Host: string(files["resolv.conf"])}
		must(t, yaml.UnmarshalStrict(files["node.yaml"], &dns))
		var out strings.Builder
		host, err := podfiles.HostOf(&pod, dns.Domain)
		must(t, err)
		name, err := host.Nodename(pod.Spec.SetHostnameAsFQDN)
		fmt.Fprintf(&out, "# hostname\n%s\n", name)
		if err != nil {
			fmt.Fprintf(&out, "error: %v\n", err)
		}
		hosts := podfiles.NodeHosts(&pod, string(files["hosts"]))
		if !pod.Spec.HostNetwork {
			hosts = podfiles.Hosts(&pod, host, []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00::7")})
		}
		resolv, warnings := podfiles.Resolv(&pod, dns)
		fmt.Fprintf(&out, "# hosts\n%s# resolv.conf\n%s", hosts, resolv)
		for _, w := range warnings {
			fmt.Fprintf(&out, "warning: %s: %s\n", w.Reason, w.Message)
		}
		return map[string][]byte{"want": []byte(out.String())}
	})
}

// Whatever a resolver file contains, the pod's file keeps the limits and parses to the same
// content.
func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a b.\noptions ndots:2 rotate\n")
	f.Add("search " + strings.Repeat("x", 300) + " " + strings.Repeat("long.example ", 200))
	f.Add("# a\n;b\nnameserver\nsearch .\noptions a:1 a:2\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, policy := range []corev1.DNSPolicy{corev1.DNSDefault, corev1.DNSClusterFirst} {
			pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: policy}}
			r, _ := podfiles.Resolv(pod, podfiles.DNS{Host: text, Domain: "cluster.local", Cluster: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
			if len(r.Nameservers) > 3 || len(r.Searches) > 32 || len(strings.Join(r.Searches, " ")) > 2048 {
				t.Errorf("%d name servers, %d domains of %d characters", len(r.Nameservers), len(r.Searches), len(strings.Join(r.Searches, " ")))
			}
			again := podfiles.ParseResolvConf(r.String())
			if again.String() != r.String() {
				t.Errorf("%q reads back as %q", r, again)
			}
		}
	})
}

func TestEnvFile(t *testing.T) {
	text := "# comment\n\n  A='1'\nB='two\nlines' # why\nEMPTY=\nNONE= 'x'\nA='later'\n"
	for name, want := range map[string]string{"A": "1", "B": "two\nlines", "EMPTY": "", "NONE": "", "C": "absent"} {
		got, found, err := podfiles.EnvFile(text, name)
		if !found {
			got = "absent"
		}
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, bad := range []string{"A", "=x", "A B='1'", "A=1", "A='1", "A='1'x", "A ='1'"} {
		if got, _, err := podfiles.EnvFile(bad, "Z"); err == nil {
			t.Errorf("%q: got %q and no error", bad, got)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A='1'\n", "A")
	f.Add("A='1\n2' #\nB='", "B")
	f.Fuzz(func(t *testing.T, text, name string) {
		value, found, err := podfiles.EnvFile(text, name)
		if found && (err != nil || strings.Contains(value, "'") || (value != "" && !strings.Contains(text, "'"+value+"'"))) {
			t.Errorf("found %q, %v", value, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
