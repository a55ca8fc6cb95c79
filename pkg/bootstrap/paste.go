package bootstrap

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Unpaste turns a pasted `kubeadm join …` line, as one argument or many, into the arguments of
// `nodeagent join`. It drops prompts, sudo and line continuations, and keeps the order of flags.
// Other arguments stay as they are.
func Unpaste(args []string) []string {
	var out []string
	for i, a := range args {
		if strings.ContainsAny(a, " \t\n") && (strings.Contains(a, "join ") || i == 0 && len(args) == 1) {
			out = append(out, strings.Fields(a)...)
			continue
		}
		out = append(out, a)
	}
	out = slices.DeleteFunc(out, func(a string) bool { return a == `\` || a == "" })
	for len(out) > 0 && slices.Contains([]string{"$", "#", "sudo", "kubeadm", "nodeagent", "join"}, out[0]) {
		out = out[1:]
	}
	return out
}

// ParseServers reads one or several API server addresses, comma-separated: host, host:port or
// https://host:port. The default port is 6443. The result is host:port, in the same order.
func ParseServers(text string) ([]string, error) {
	var servers []string
	for part := range strings.SplitSeq(text, ",") {
		s := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(part), "https://"), "/")
		if s == "" {
			continue
		}
		hostPort, err := withPort(s)
		if err != nil {
			return nil, err
		}
		servers = append(servers, hostPort)
	}
	if len(servers) == 0 {
		return nil, fail(CodeReach, "nodeagent join HOST:6443 --token …", "reading the server's address: none was given")
	}
	return servers, nil
}

func withPort(s string) (string, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		return net.JoinHostPort(a.String(), "6443"), nil
	}
	if !strings.Contains(s, ":") {
		s += ":6443"
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fail(CodeReach, "give it as HOST:PORT", "reading the server's address %q: %w", s, err)
	}
	_, notIP := netip.ParseAddr(host)
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || notIP != nil && len(validation.IsDNS1123Subdomain(strings.ToLower(host))) > 0 {
		return "", fail(CodeReach, "give it as HOST:PORT", "reading the server's address %q: it is not a host and a port", s)
	}
	return net.JoinHostPort(host, port), nil
}
