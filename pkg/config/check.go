package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	netutils "k8s.io/utils/net"
)

// The checks below record errors under the field's path and return a usable value, so that one run
// finds all errors.

func (d *documents) path(field, given, otherwise string) string {
	p := or(given, otherwise)
	if given != "" && !filepath.IsAbs(p) { // the path from which it is derived has an error already
		d.bad(field, "must be an absolute path, is %q", p)
	}
	if strings.ContainsRune(p, 0) {
		d.bad(field, "must not hold a zero byte, is %q", p)
	}
	if p == "" {
		return ""
	}
	return filepath.Clean(p)
}

// beside is path for fields in which kubelet accepts a path relative to the folder of the
// configuration file.
func (d *documents) beside(field, given, otherwise string) string {
	if file, line := splitPlace(d.where(field)); given != "" && line > 0 && !filepath.IsAbs(given) && filepath.IsAbs(file) {
		given = filepath.Join(filepath.Dir(file), given)
	}
	return d.path(field, given, otherwise)
}

func (d *documents) address(field, text string) netip.Addr {
	a, ok := parseAddr(text)
	if !ok {
		d.bad(field, "must be an IP address, is %q", text)
		return netip.IPv4Unspecified()
	}
	return a
}

// parseAddr accepts what kubelet and kube-proxy accept, including leading zeros, which are
// decimal, in an IPv4 address.
func parseAddr(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap(), a.Zone() == ""
	}
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return a.Unmap(), ok
}

func (d *documents) addresses(field string, texts []string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		list = append(list, d.address(field, strings.TrimSpace(t)))
	}
	return list
}

func (d *documents) prefix(field, text string) netip.Prefix {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		d.bad(field, "must be a CIDR such as 10.244.0.0/16, is %q", text)
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits).Masked()
}

// listen returns the zero AddrPort, off, for port 0.
func (d *documents) listen(field string, a netip.Addr, port int32) netip.AddrPort {
	if port < 0 || port > 65535 {
		d.bad(field, "must be 1 to 65535, is %d", port)
		return netip.AddrPort{}
	}
	if port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// addressPort reads "address:port" or an address alone; port 0 is off.
func (d *documents) addressPort(field, text string, otherwise netip.AddrPort) netip.AddrPort {
	if text == "" {
		return otherwise
	}
	if a, ok := parseAddr(strings.Trim(text, "[]")); ok {
		return netip.AddrPortFrom(a, otherwise.Port())
	}
	host, portText, err := net.SplitHostPort(text)
	a, ok := parseAddr(host)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err != nil || portErr != nil || !ok {
		d.bad(field, "must be address:port such as %s, is %q", otherwise, text)
		return otherwise
	}
	if port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// apart refuses two pages on one port, of which only the first would be served.
func (d *documents) apart(pages []page) {
	for i, b := range pages {
		for _, a := range pages[:i] {
			if !a.at.IsValid() || !b.at.IsValid() || a.at.Port() != b.at.Port() {
				continue
			}
			if a.at.Addr() == b.at.Addr() || a.at.Addr().IsUnspecified() || b.at.Addr().IsUnspecified() {
				_, first, _ := strings.Cut(a.field, ".")
				d.bad(b.field, "is %s, where %s (%s) listens: give it another port", b.at, first, a.at)
			}
		}
	}
}

// page is an address to listen on, and its field.
type page struct {
	field string
	at    netip.AddrPort
}

func (d *documents) oneOf(field, value string, known ...string) {
	if !slices.Contains(known, value) {
		d.bad(field, "must be one of %s, is %q", strings.Join(known, ", "), value)
	}
}

func (d *documents) atLeast(field string, n, low int) {
	if n < low {
		d.bad(field, "must be at least %d, is %d", low, n)
	}
}

func (d *documents) within(field string, n, low, high int) {
	if n < low || n > high {
		d.bad(field, "must be from %d to %d, is %d", low, high, n)
	}
}

func (d *documents) positive(field string, t time.Duration) time.Duration {
	if t <= 0 {
		d.bad(field, "must be over 0, is %s", t)
	}
	return t
}

func (d *documents) notNegative(field string, t time.Duration) time.Duration {
	if t < 0 {
		d.bad(field, "must not be below 0, is %s", t)
	}
	return t
}

func (d *documents) domain(name string) {
	if name == "" {
		return
	}
	if m := validation.IsDNS1123Subdomain(strings.ToLower(name)); len(m) > 0 {
		d.bad(kindKubelet+".clusterDomain", "%q is not a domain: %s", name, m[0])
	}
}

// containerdName checks an identifier of containerd.
func (d *documents) containerdName(field, name string) string {
	ok := len(name) <= 76
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return strings.ContainsRune("._-", r) }) {
		ok = ok && strings.IndexFunc(part, func(r rune) bool { return !letterOrDigit(r) }) < 0
	}
	if !ok || !letterOrDigit(rune(name[0])) || !letterOrDigit(rune(name[len(name)-1])) {
		d.bad(field, "must be letters, digits, and . _ - between them, 76 at most, is %q", name)
	}
	return name
}

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// interfaceName checks the name of a network interface, or the beginning of one.
func (d *documents) interfaceName(field, name, mode string) {
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n") {
		d.bad(field, "must name an interface by 1 to 15 letters for detectLocalMode %s, is %q", mode, name)
	}
}

// cipherSuites leaves out suites that kubelet accepts and crypto/tls calls insecure.
func (d *documents) cipherSuites(names []string) []string {
	field := kindKubelet + ".tlsCipherSuites"
	var good []string
	for _, name := range names {
		switch {
		case slices.Contains(cliflag.PreferredTLSCipherNames(), name):
			good = append(good, name)
		case slices.Contains(cliflag.InsecureTLSCipherNames(), name):
			d.note(field, name+" is left out", "it is insecure")
		default:
			d.bad(field, "%q is not known; use %s", name, strings.Join(cliflag.PreferredTLSCipherNames(), ", "))
		}
	}
	if len(names) > 0 && len(good) == 0 {
		d.bad(field, "names no cipher suite that is secure; use %s", strings.Join(cliflag.PreferredTLSCipherNames(), ", "))
	}
	return good
}

// minVersion is the oldest accepted version of TLS, at least 1.2.
func (d *documents) minVersion(name string) string {
	field := kindKubelet + ".tlsMinVersion"
	switch name {
	case "":
		return "VersionTLS12"
	case "VersionTLS10", "VersionTLS11":
		d.note(field, "is VersionTLS12 here", "older ones are insecure")
		return "VersionTLS12"
	}
	d.oneOf(field, name, "VersionTLS12", "VersionTLS13")
	return name
}
