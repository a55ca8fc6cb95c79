// Package lifecyclehandler is PURE: what hooks and probes read from the lifecycle handlers in a
// pod's spec (httpGet, exec, tcpSocket): ports, URLs and headers of requests, and how much of the
// output they keep.
package lifecyclehandler

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodeagent/nodeagent/pkg/clip"
)

// MaxOutput is how many bytes of a command's output or of an HTTP response are kept, as in kubelet.
const MaxOutput = 10 << 10

// Port resolves a port by number, or by its name in the container. fallback is the port of a
// handler that names none; with 0, such a handler is an error.
func Port(port intstr.IntOrString, c *corev1.Container, fallback int) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if given := port.StrVal != "" || port.Type == intstr.Int && port.IntVal != 0; !given {
		number = fallback
	}
	if number <= 0 || number > 65535 {
		return 0, fmt.Errorf("resolving the port %q: container %q has no such port", port.String(), c.Name)
	}
	return number, nil
}

// URL is the URL that a handler requests; host applies unless the handler names one. The path may
// have a query; a path that does not parse is taken literally.
func URL(h *corev1.HTTPGetAction, host string, port int) *url.URL {
	if h.Host != "" {
		host = h.Host
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	u.Scheme, u.Host = "http", host+":"+strconv.Itoa(port)
	if h.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	return u
}

// Header returns the given headers and the defaults of those that are not given: User-Agent and
// Accept. An empty Accept sends none.
func Header(given []corev1.HTTPHeader, userAgent string) http.Header {
	h := make(http.Header)
	for _, pair := range given {
		h.Add(pair.Name, pair.Value)
	}
	if _, set := h["User-Agent"]; !set {
		h.Set("User-Agent", userAgent)
	}
	if _, set := h["Accept"]; !set {
		h.Set("Accept", "*/*")
	} else if h.Get("Accept") == "" {
		h.Del("Accept")
	}
	return h
}

// Output keeps the first MaxOutput bytes that are written to it. Both streams of a process may
// write to it concurrently.
type Output struct {
	lock sync.Mutex
	text bytes.Buffer
}

// Write keeps what fits and drops the rest; it never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.lock.Lock()
	defer o.lock.Unlock()
	if room := MaxOutput - o.text.Len(); room > 0 {
		o.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String is the kept output as text that an event may carry, without a character that the bound has
// cut in two.
func (o *Output) String() string {
	o.lock.Lock()
	defer o.lock.Unlock()
	return clip.Start(o.text.String(), MaxOutput)
}
