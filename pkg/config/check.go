package config

import (
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The checks below record what is wrong under the field's path, and return something usable, so that one run finds all.

func (d *documents) path(field, given, otherwise string) string {
	p := or(given, otherwise)
	if given != "" && !filepath.IsAbs(p) { // what it was derived from has been blamed already
		d.bad(field, "must be an absolute path, is %q", p)
	}
	if p == "" {
		return ""
	}
	return filepath.Clean(p)
}

func (d *documents) address(field, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		d.bad(field, "must be an IP address, is %q", text)
		return netip.IPv4Unspecified()
	}
	return a.Unmap()
}

func (d *documents) addresses(field string, texts []string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		list = append(list, d.address(field, strings.TrimSpace(t)))
	}
	return list
}

func (d *documents) prefix(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		d.bad(field, "must be a CIDR such as 10.244.0.0/16, is %q", text)
	}
	return p.Masked()
}

// listen makes the zero AddrPort, off, of port 0.
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
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), otherwise.Port())
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		d.bad(field, "must be address:port such as %s, is %q", otherwise, text)
		return otherwise
	}
	if ap.Port() == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
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

func (d *documents) domain(name string) {
	if name == "" {
		return
	}
	if m := validation.IsDNS1123Subdomain(name); len(m) > 0 {
		d.bad(kindKubelet+".clusterDomain", "%q is not a domain: %s", name, m[0])
	}
}

func quantityOrPercent(text string) bool {
	if n, ok := strings.CutSuffix(text, "%"); ok {
		f, err := strconv.ParseFloat(n, 64)
		return err == nil && f >= 0 && f <= 100
	}
	q, err := resource.ParseQuantity(text)
	return err == nil && q.Sign() >= 0
}

func cipherSuite(name string) bool {
	return slices.ContainsFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
}
