package sandboxspec_test

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/sandboxspec"
)

func build(t *testing.T, spec, annotations string, inUserNS bool) (runtime.SandboxConfig, error) {
	t.Helper()
	pod := &corev1.Pod{}
	if err := yaml.Unmarshal([]byte("metadata: {name: p, namespace: ns, uid: u, annotations: {"+annotations+"}}\nspec: "+spec), pod); err != nil {
		t.Fatal(err)
	}
	return sandboxspec.Build(sandboxspec.Input{Pod: pod, Attempt: 2, CgroupParent: "/c", ClusterDomain: "cluster.local", InUserNS: inUserNS})
}

func TestBuild(t *testing.T) {
	c, err := build(t, `{
  hostname: h, shareProcessNamespace: true, securityContext: {sysctls: [{name: net/core/somaxconn, value: "9"}], seLinuxOptions: {level: s0}},
  initContainers: [{name: once, ports: [{hostPort: 1, containerPort: 1}]}, {name: sidecar, restartPolicy: Always, ports: [{hostPort: 2, containerPort: 3, protocol: UDP}]}],
  containers: [{name: c, ports: [{containerPort: 4}, {hostPort: 5, containerPort: 6, hostIP: 192.0.2.1}]}]}`,
		"kubernetes.io/ingress-bandwidth: 1M", false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Attempt != 2 || c.Hostname != "h" || !c.ShareProcessNamespace || c.CgroupParent != "/c" || c.SELinux.Level != "s0" || c.IngressBandwidth != 1e6 || c.EgressBandwidth != 0 {
		t.Errorf("got %+v", c)
	}
	want := map[string]string{"net.core.somaxconn": "9", "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	if !maps.Equal(c.Sysctls, want) {
		t.Errorf("sysctls are %v, want %v", c.Sysctls, want)
	}
	if len(c.Ports) != 2 || c.Ports[0] != (runtime.PortMapping{HostPort: 2, ContainerPort: 3, Protocol: "udp"}) ||
		c.Ports[1] != (runtime.PortMapping{HostPort: 5, ContainerPort: 6, Protocol: "tcp", HostIP: "192.0.2.1"}) {
		t.Errorf("host ports are %+v", c.Ports)
	}
	if c, err = build(t, "{}", "", true); err != nil || len(c.Sysctls) != 1 {
		t.Errorf("in a user namespace: sysctls %v, %v", c.Sysctls, err)
	}
	if c, err = build(t, "{hostNetwork: true, containers: [{name: c, ports: [{hostPort: 5, containerPort: 5}]}]}", "", false); err != nil || len(c.Sysctls)+len(c.Ports) != 0 || c.Hostname != "" {
		t.Errorf("in the host network: %+v, %v", c, err)
	}
}

func TestRefused(t *testing.T) {
	for want, in := range map[string][2]string{
		"hostUsers: false":              {"{hostUsers: false}", ""},
		"is not within 1k to 1P":        {"{}", "kubernetes.io/egress-bandwidth: '12'"},
		"kubernetes.io/ingress-bandwid": {"{}", "kubernetes.io/ingress-bandwidth: much"},
	} {
		if _, err := build(t, in[0], in[1], false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want it to say %q", in, err, want)
		}
	}
}
