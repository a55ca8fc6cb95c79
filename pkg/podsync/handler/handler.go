// Package handler is PURE: what lifecycle hooks and probes make of the handlers in a pod's spec:
// ports, addresses and headers of requests, and how much of an answer is kept.
package handler

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

// MaxOutput bounds what is kept of a command's output or read of an answer, in bytes; as in
// kubelet.
const MaxOutput = 10 << 10

// Port resolves a port by number, or by its name in the container. fallback stands for a port that
// is not given; 0: it must be.
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

// URL is what a handler asks for; host and port stand for those that it does not name. A path may
// have a query; one that is no URL is taken as it is.
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

// Header has the given headers, and what every request sends unless they say otherwise. An empty
// Accept sends none.
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

// Output keeps the first MaxOutput bytes of what is written. A process's two streams may be copied
// to it side by side.
type Output struct {
	lock sync.Mutex
	text bytes.Buffer
}

// Write keeps what fits, and takes it all.
func (o *Output) Write(p []byte) (int, error) {
	o.lock.Lock()
	defer o.lock.Unlock()
	if room := MaxOutput - o.text.Len(); room > 0 {
		o.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String is what was kept, as text that an event may carry: what the bound has cut in two is left
// out.
func (o *Output) String() string {
	o.lock.Lock()
	defer o.lock.Unlock()
	return clip.Start(o.text.String(), MaxOutput)
}
