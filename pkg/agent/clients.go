package agent

import (
	"fmt"
	"net"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// clients are the agent's connections to the API server. Each has a dialer, and so a TCP connection, of its own: a
// heartbeat must not queue behind a list, nor die with the connection that a list is stuck on.
type clients struct {
	main   *connection // informers, volumes' objects, tokens, access reviews: limited by the configuration
	status *connection // node and pod status: never limited
	lease  *connection // the heartbeat: never limited, short time-outs
	events *connection
}

// connection is one client with the means to drop its TCP connections when they have gone silent.
type connection struct {
	kubernetes.Interface
	dialer *connrotation.Dialer
}

// drop closes every connection, so that the next request dials anew (complaint: 15 minutes on a dead connection).
func (c *connection) drop() { c.dialer.CloseAll() }

// newClients makes the connections from the agent's identity; it dials nothing yet.
func newClients(base *rest.Config, api config.API, lease time.Duration) (*clients, error) {
	var c clients
	for _, of := range []struct {
		into **connection
		set  func(*rest.Config)
	}{
		{&c.main, func(r *rest.Config) { r.QPS, r.Burst = api.QPS, api.Burst }},
		{&c.status, func(r *rest.Config) { r.QPS = -1 }},
		{&c.lease, func(r *rest.Config) { r.QPS, r.Timeout = -1, lease/4 }},
		{&c.events, func(r *rest.Config) { r.QPS, r.Burst = api.EventQPS, api.EventBurst }},
	} {
		conn, err := newConnection(base, api.ContentType, of.set)
		if err != nil {
			return nil, err
		}
		*of.into = conn
	}
	return &c, nil
}

// newConnection is one client over TCP connections of its own.
func newConnection(base *rest.Config, contentType string, set func(*rest.Config)) (*connection, error) {
	c := rest.CopyConfig(base)
	c.UserAgent = version.UserAgent()
	c.ContentType = contentType
	c.AcceptContentTypes = contentType + ",application/json"
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext)
	c.Dial = dialer.DialContext
	set(c)
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for %q: %w", c.Host, err)
	}
	return &connection{Interface: client, dialer: dialer}, nil
}
