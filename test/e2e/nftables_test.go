package e2e_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

// modeConfig is a KubeProxyConfiguration of a mode, with kube-proxy's other defaults of the bed.
func modeConfig(mode string) string {
	return "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: " + mode + "\n"
}

// TestNFTables: in mode nftables a Service answers from a node and from a pod, by its cluster IP
// and its node port; and a connection that lasts and a thousand short ones a second go on while
// the agent is killed, endpoints change, kube-proxy in the same mode takes over, and the mode
// becomes iptables and nftables again. Nothing of a mode is left when the other one serves.
func TestNFTables(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, agentAndProxy{bed.NodeAgent{Config: modeConfig("nftables")}})
	life(ctx, t, p)
	serveTraffic(ctx, t, n)
	if err := p.cluster.Apply(ctx, trafficService); err != nil {
		t.Fatal(err)
	}
	client := clientOf(t, p.cluster)
	for i := range slicesOf {
		if _, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, trafficSlice(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	conn := longConnection(ctx, t, n)
	s := startStream(ctx, t, n)
	defer s.stop()
	agent := n.Process("nodeagent")
	phase := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		echo(t, conn, "after "+what)
		t.Logf("%s: %s", what, s.report(t))
	}
	onlyMode := func(mode string) {
		t.Helper()
		eventually(ctx, t, 20*time.Second, "mode "+mode+" alone", func() (bool, string) { return alone(ctx, n, mode) })
	}
	become := func(mode string) func() error {
		return func() error {
			return errors.Join(agent.Kill(), n.WriteFile("/etc/nodeagent/40-test.yaml", []byte(modeConfig(mode)), 0o644),
				agent.Start(), proxySyncs(ctx, n), sleep.For(ctx, time.Second))
		}
	}
	phase("endpoints change", func() error { return changeEndpoints(ctx, t, client, 5*time.Second) })
	onlyMode("nftables")
	phase("the agent is killed and started", become("nftables"))
	var proxy *bed.Process
	phase("kube-proxy takes over", func() (err error) {
		if err := agent.Kill(); err != nil {
			return err
		}
		proxy, err = bed.Peer{ProxyMode: "nftables"}.StartProxy(ctx, n)
		return errors.Join(err, proxySyncs(ctx, n), sleep.For(ctx, 2*time.Second))
	})
	phase("the agent takes over", func() error {
		return errors.Join(proxy.Kill(), agent.Start(), proxySyncs(ctx, n), sleep.For(ctx, time.Second))
	})
	onlyMode("nftables")
	phase("mode iptables", become("iptables"))
	onlyMode("iptables")
	phase("mode nftables again", become("nftables"))
	onlyMode("nftables")
	phase("endpoints change again", func() error { return changeEndpoints(ctx, t, client, 3*time.Second) })
}

// alone says whether a mode is programmed, nothing of the other one is left, and other programs
// find the hint which iptables the node uses.
func alone(ctx context.Context, n *bed.Node, mode string) (bool, string) {
	client := http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get("http://127.0.0.1:10249/proxyMode")
	if err != nil {
		return false, err.Error()
	}
	said, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	tables, err1 := n.Output(ctx, "nft", "list", "tables")
	chains, err2 := n.Output(ctx, "sh", "-c", "iptables-nft-save; iptables-legacy-save")
	if err := errors.Join(err1, err2); err != nil {
		return false, err.Error()
	}
	hasTable, hasChains := strings.Contains(tables, "table ip kube-proxy"), strings.Contains(chains, ":KUBE-SERVICES")
	nftables := mode == "nftables"
	hint := strings.Contains(chains, ":KUBE-IPTABLES-HINT")
	return string(said) == mode && hasTable == nftables && hasChains == !nftables && hint, string(said) + "\n" + tables + chains
}
