package serviceenv_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/serviceenv"
)

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func TestEnv(t *testing.T) {
	services := []*corev1.Service{
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		service("shop", "web-front", "fd00::1", corev1.ServicePort{Port: 80}, corev1.ServicePort{Name: "dns-udp", Port: 53, Protocol: corev1.ProtocolUDP}),
		service("shop", "headless", "None", corev1.ServicePort{Port: 80}),
		service("shop", "external", ""),
		service("other", "elsewhere", "10.96.0.9", corev1.ServicePort{Port: 80}),
	}
	api := "KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443 " +
		"KUBERNETES_PORT=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP_PROTO=tcp " +
		"KUBERNETES_PORT_443_TCP_PORT=443 KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1"
	front := " WEB_FRONT_SERVICE_HOST=fd00::1 WEB_FRONT_SERVICE_PORT=80 WEB_FRONT_SERVICE_PORT_DNS_UDP=53 " +
		"WEB_FRONT_PORT=tcp://[fd00::1]:80 WEB_FRONT_PORT_80_TCP=tcp://[fd00::1]:80 WEB_FRONT_PORT_80_TCP_PROTO=tcp " +
		"WEB_FRONT_PORT_80_TCP_PORT=80 WEB_FRONT_PORT_80_TCP_ADDR=fd00::1 WEB_FRONT_PORT_53_UDP=udp://[fd00::1]:53 " +
		"WEB_FRONT_PORT_53_UDP_PROTO=udp WEB_FRONT_PORT_53_UDP_PORT=53 WEB_FRONT_PORT_53_UDP_ADDR=fd00::1"
	for links, want := range map[bool]string{true: api + front, false: api} {
		if got := strings.Join(serviceenv.Env(services, "shop", links), " "); got != want {
			t.Errorf("links %v:\ngot  %s\nwant %s", links, got, want)
		}
	}
	own := service("shop", "kubernetes", "10.96.0.77", corev1.ServicePort{Port: 1})
	for _, list := range [][]*corev1.Service{append(services, own), append([]*corev1.Service{own}, services...)} {
		if got := serviceenv.Env(list, "shop", true); got[0] != "KUBERNETES_SERVICE_HOST=10.96.0.77" {
			t.Errorf("a service of the pod's own namespace does not win: %v", got[0])
		}
	}
}
