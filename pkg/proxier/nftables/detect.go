package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// askTimeout bounds runs of nft that write nothing. It is that of the iptables programs.
const askTimeout = 10 * time.Second

// Detect finds nft, and tries whether the kernel takes from it all that rules
// of Services need; it writes none. The error names the remedy.
func Detect(ctx context.Context, f corev1.IPFamily) (knftables.Interface, error) {
	nft, err := find(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("looking for nft (it needs version 1.0.1 or newer; install the package nftables, or set mode: iptables): %w", err)
	}
	tx := nft.NewTransaction()
	for _, op := range elements.Recreate(elements.Render(sample(f), elements.Options{Family: f, MasqueradeBit: 14})).Ops {
		apply(tx, op)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := nft.Check(ctx, tx); err != nil {
		return nil, fmt.Errorf("trying whether the kernel takes nftables rules of Services (it needs Linux 5.13 or newer with nf_tables, nft_nat, "+
			"nft_masq, nft_fib, nft_numgen and nft_reject; else set mode: iptables): %w", hung(ctx, err))
	}
	return nft, nil
}

// find is knftables.New with a deadline: it runs nft without one. An nft that hangs is left behind.
func find(ctx context.Context, f corev1.IPFamily) (knftables.Interface, error) {
	type result struct {
		nft knftables.Interface
		err error
	}
	found := make(chan result, 1)
	go func() {
		nft, err := knftables.New(family(f), elements.TableName)
		found <- result{nft, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case r := <-found:
		return r.nft, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("running nft: it does not answer: %w", ctx.Err())
	}
}

// Version is what nft says of itself, such as "nftables v1.0.6 (Lester Gooch #5)".
func Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nft", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking nft for its version: %w", hung(ctx, err))
	}
	return strings.TrimSpace(string(out)), nil
}

// sample is a Service that needs everything: a balancer with source ranges and clients that stick.
func sample(f corev1.IPFamily) *snapshot.Snapshot {
	vip, endpoint, source := "198.51.100.1", "192.0.2.1:80", "203.0.113.0/24"
	if f == corev1.IPv6Protocol {
		vip, endpoint, source = "2001:db8:1::1", "[2001:db8:2::1]:80", "2001:db8:3::/64"
	}
	e := snapshot.Endpoint{AddrPort: netip.MustParseAddrPort(endpoint), Local: true, Ready: true, Serving: true}
	list := []snapshot.Endpoint{e, e}
	sticky := &snapshot.Port{
		Name: "probe/sticky:p", Protocol: corev1.ProtocolTCP, ClusterIP: netip.MustParseAddr(vip), Port: 80, NodePort: 30000,
		LoadBalancerIPs: []netip.Addr{netip.MustParseAddr(vip).Next()}, SourceRanges: []netip.Prefix{netip.MustParsePrefix(source)},
		AffinitySeconds: int32(time.Hour / time.Second), Endpoints: list, Cluster: list, Local: list, Reachable: list[:1], HasEndpoints: true, ExternalLocal: true,
	}
	random := &snapshot.Port{
		Name: "probe/random:p", Protocol: corev1.ProtocolUDP, ClusterIP: netip.MustParseAddr(vip).Next().Next(), Port: 80,
		Endpoints: list, Cluster: list, Reachable: list[:1], HasEndpoints: true,
	}
	none := &snapshot.Port{Name: "probe/none:p", Protocol: corev1.ProtocolSCTP, ClusterIP: netip.MustParseAddr(vip), Port: 81, NodePort: 30001}
	return &snapshot.Snapshot{Family: f, NodePorts: snapshot.Places{All: true}, Services: []*snapshot.Service{{Namespace: "probe", Name: "sample", Ports: []*snapshot.Port{sticky, random, none}}}}
}
