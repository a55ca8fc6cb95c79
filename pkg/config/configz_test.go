package config

import (
	"encoding/json"
	"reflect"
	"testing"
)

// TestConfigzGivesTheSameConfiguration: the document of /configz, read as a file, gives the same
// configuration.
func TestConfigzGivesTheSameConfiguration(t *testing.T) {
	for _, text := range []string{
		"mode: iptables",
		`
clusterCIDR: 10.244.0.0/16,fd00::/64
detectLocalMode: InterfaceNamePrefix
detectLocal: {interfaceNamePrefix: veth}
healthzBindAddress: 127.0.0.1:1256
metricsBindAddress: 0.0.0.0
bindAddressHardFail: true
enableProfiling: true
nodePortAddresses: [10.0.0.0/8]
configSyncPeriod: 3m
iptables: {masqueradeBit: 15, masqueradeAll: true, localhostNodePorts: true, syncPeriod: 20s, minSyncPeriod: 2s}
ipvs: {scheduler: lc, excludeCIDRs: [10.1.0.0/16], strictARP: true, syncPeriod: 10s, minSyncPeriod: 1s, tcpTimeout: 1s, tcpFinTimeout: 2s, udpTimeout: 3s}
conntrack: {maxPerCore: 0, min: 5, tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 0s, tcpBeLiberal: true, udpTimeout: 4s, udpStreamTimeout: 5s}`,
		"mode: nftables\nnftables: {masqueradeBit: 12, masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 2s}",
		"detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
	} {
		c := resolved(t, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+text))
		shown, err := json.Marshal(c.KubeProxyConfiguration())
		if err != nil {
			t.Fatal(err)
		}
		if again := resolved(t, shown); !reflect.DeepEqual(c.Proxy, again.Proxy) {
			t.Errorf("from %s\n%+v\n%+v", shown, c.Proxy, again.Proxy)
		}
	}
}

// TestConfigzKeepsModesApart: settings of mode nftables are not shown as those of iptables.
func TestConfigzKeepsModesApart(t *testing.T) {
	c := resolved(t, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nnftables: {masqueradeBit: 12}"))
	shown := c.KubeProxyConfiguration()
	if a, b := *shown.IPTables.MasqueradeBit, *shown.NFTables.MasqueradeBit; a != 14 || b != 12 {
		t.Errorf("masqueradeBit %d of iptables, %d of nftables", a, b)
	}
}

// resolved is the configuration that one document gives.
func resolved(t *testing.T, data []byte) Config {
	t.Helper()
	c, _, err := Resolve([]Source{{Name: "x", Data: data}}, &Flags{}, Host{Hostname: "n1", Executable: "/x"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	return c
}
