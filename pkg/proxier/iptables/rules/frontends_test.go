package rules

import (
	"fmt"
	"testing"
)

func TestFrontend(t *testing.T) {
	for rule, want := range map[string]string{
		`-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/dns cluster IP" -m udp --dport 53 -j KUBE-SVC-X`: "{UDP 10.96.0.10 53}",
		`-A KUBE-SERVICES -d fd00::a/128 -p 17 -m udp --dport 53 -j KUBE-SVC-X`:                                                      "{UDP fd00::a 53}",
		`-A KUBE-NODEPORTS -p udp -m udp --dport 30053 -j KUBE-EXT-X`:                                                                "{UDP invalid IP 30053}",
		`-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS`:                                                            "",
		`-A KUBE-NODEPORTS ! -d 127.0.0.0/8 -p udp -m udp --dport 30053 -j KUBE-EXT-X`:                                               "{UDP invalid IP 30053}",
		`-A KUBE-EXTERNAL-SERVICES -d 10.0.0.0/8 -p udp -m addrtype --dst-type LOCAL -m udp --dport 30053 -j REJECT`:                 "{UDP invalid IP 30053}",
		`-A KUBE-SERVICES ! -d 127.0.0.0/8 -p udp -m udp --dport 1 -j X`:                                                             "",
		`-A KUBE-SERVICES -d 10.0.0.0/8 -p udp -m udp --dport 1 -j X`:                                                                "",
		`-A KUBE-SERVICES -d 10.0.0.1/32 -p udp -m udp --dport 1:5 -j X`:                                                             "",
		``: "",
	} {
		got, ok := frontend(rule)
		if ok != (want != "") || ok && fmt.Sprint(got) != want {
			t.Errorf("%q is %v %v, want %s", rule, got, ok, want)
		}
	}
}
