package apiclient

import (
	"cmp"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Clients are the agent's clients of the API server. Each has TCP connections of its own: a
// heartbeat must not queue behind a list, nor die with the connection that a list is stuck on.
type Clients struct {
	Main   kubernetes.Interface // informers, volumes' objects, tokens: limited by the configuration
	Status kubernetes.Interface // node and pod status: no limit; pods' statuses have a limit of their own
	Lease  kubernetes.Interface // the heartbeat: no limit, short timeouts
	Events kubernetes.Interface
	Review kubernetes.Interface // TokenReviews and SubjectAccessReviews: package server bounds them
}

// Limits of one client. A QPS below 0 means no limit; a Timeout of 0, none.
type Limits struct {
	QPS     float32
	Burst   int
	Timeout time.Duration // of a whole request
}

// ClientsConfig is what Clients are made from.
type ClientsConfig struct {
	// Connect makes a configuration whose connections no other client shares.
	Connect func(Limits) *rest.Config
	Main    Limits
	// Events limits the sending of events; here a QPS of 0 means no limit.
	Events Limits
	// LeaseDuration is the node lease's; a renewal may take a quarter of it.
	LeaseDuration time.Duration
}

// NewClients makes the clients; it dials nothing.
func NewClients(c ClientsConfig) (*Clients, error) {
	c.Events.QPS = cmp.Or(c.Events.QPS, -1)
	var all Clients
	for _, one := range []struct {
		into *kubernetes.Interface
		Limits
	}{
		{&all.Main, c.Main},
		{&all.Status, Limits{QPS: -1}},
		{&all.Lease, Limits{QPS: -1, Timeout: c.LeaseDuration / 4}},
		{&all.Review, Limits{QPS: -1, Timeout: 10 * time.Second}},
		{&all.Events, c.Events},
	} {
		rc := c.Connect(one.Limits)
		client, err := kubernetes.NewForConfig(rc)
		if err != nil {
			return nil, fmt.Errorf("making a client for %q: %w", rc.Host, err)
		}
		*one.into = client
	}
	return &all, nil
}
