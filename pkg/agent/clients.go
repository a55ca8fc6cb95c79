package agent

import (
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// clients are the agent's connections to the API server. Each has TCP connections of its own: a
// heartbeat must not queue behind a list, nor die with the connection that a list is stuck on.
type clients struct {
	main kubernetes.Interface // informers, volumes' objects, tokens: limited by the configuration
	// node and pod status: not limited here; pods' statuses have a limit of their own
	status kubernetes.Interface
	lease  kubernetes.Interface // the heartbeat: never limited, short time-outs
	events kubernetes.Interface
	review kubernetes.Interface // who asks the node's API, and may they: bounded by package server
}

// newClients makes the connections from the agent's identity; it dials nothing yet.
func newClients(identity *bootstrap.Credentials, api config.API, lease time.Duration) (*clients, error) {
	var c clients
	for _, of := range []struct {
		into *kubernetes.Interface
		bootstrap.Options
	}{
		{&c.main, bootstrap.Options{QPS: api.QPS, Burst: api.Burst}},
		{&c.status, bootstrap.Options{QPS: -1}},
		{&c.lease, bootstrap.Options{QPS: -1, Timeout: lease / 4}},
		{&c.review, bootstrap.Options{QPS: -1, Timeout: 10 * time.Second}},
		{&c.events, bootstrap.Options{QPS: unlimitedAtZero(api.EventQPS), Burst: api.EventBurst}},
	} {
		of.UserAgent, of.ContentType = version.UserAgent(), api.ContentType
		rc := identity.Config(of.Options)
		client, err := kubernetes.NewForConfig(rc)
		if err != nil {
			return nil, fmt.Errorf("making a client for %q: %w", rc.Host, err)
		}
		*of.into = client
	}
	return &c, nil
}

// unlimitedAtZero turns the configuration's "0: no limit" into client-go's.
func unlimitedAtZero(qps float32) float32 {
	if qps == 0 {
		return -1
	}
	return qps
}
