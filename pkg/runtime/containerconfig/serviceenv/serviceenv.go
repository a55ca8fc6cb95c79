// Package serviceenv is PURE: the environment variables by which programs find Services without DNS
// (NAME_SERVICE_HOST and the Docker link variables).
package serviceenv

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Env returns "NAME=value" for the services of a pod's namespace, in order of service name. Without
// links it returns only those of default/kubernetes, by which programs in pods find the API server.
// A service of that name in the pod's own namespace wins over default/kubernetes.
func Env(services []*corev1.Service, namespace string, links bool) []string {
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		api := s.Namespace == "default" && s.Name == "kubernetes"
		own := s.Namespace == namespace && links && !api
		if _, taken := chosen[s.Name]; own || (api && !taken) {
			chosen[s.Name] = s
		}
	}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	var env []string
	for _, name := range names {
		env = append(env, one(chosen[name])...)
	}
	return env
}

func one(s *corev1.Service) []string {
	prefix := variable(s.Name)
	env := []string{
		prefix + "_SERVICE_HOST=" + s.Spec.ClusterIP,
		prefix + "_SERVICE_PORT=" + number(s.Spec.Ports[0].Port),
	}
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			env = append(env, prefix+"_SERVICE_PORT_"+variable(p.Name)+"="+number(p.Port))
		}
	}
	for i, p := range s.Spec.Ports {
		env = append(env, link(prefix, s.Spec.ClusterIP, p, i == 0)...)
	}
	return env
}

func link(prefix, ip string, p corev1.ServicePort, first bool) []string {
	protocol := "tcp"
	if p.Protocol != "" {
		protocol = strings.ToLower(string(p.Protocol))
	}
	url := protocol + "://" + hostPort(ip, p.Port)
	var env []string
	if first {
		env = append(env, prefix+"_PORT="+url)
	}
	name := prefix + "_PORT_" + number(p.Port) + "_" + strings.ToUpper(protocol)
	return append(env, name+"="+url, name+"_PROTO="+protocol, name+"_PORT="+number(p.Port), name+"_ADDR="+ip)
}

func hostPort(ip string, port int32) string {
	if addr, err := netip.ParseAddr(ip); err == nil {
		return netip.AddrPortFrom(addr, uint16(port)).String()
	}
	return ip + ":" + number(port)
}

func number(n int32) string { return strconv.Itoa(int(n)) }

func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
