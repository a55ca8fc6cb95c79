package bootstrap

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
)

// Service is the daemon under the machine's service manager.
type Service interface {
	// State reports whether the unit runs and whether it starts at boot.
	State(ctx context.Context) (active, enabled bool, err error)
	// Start enables the unit and starts or restarts it. It returns when the unit reports that it
	// is ready.
	Start(ctx context.Context) error
}

// JoinConfig says how to join.
type JoinConfig struct {
	// Plan is the goal, Host what to check first. Ignore names checks to skip: those of the host,
	// and version, clock, proxy-rbac.
	Plan   Config
	Host   HostConfig
	Ignore []string
	// Token is the bootstrap token. It is not needed if Plan.Discovery has credentials or there is
	// a certificate already.
	Token Token
	// Replace allows to take over the name of a Ready node.
	Replace bool
	// Service is required with Plan.Start.
	Service Service
	// UserAgent of all requests; Minor is the agent's Kubernetes minor version, such as 36.
	UserAgent string
	Minor     int
	// ReachFor, SignedFor, ApproveFor and ReadyFor bound the waits for an API server, the
	// signature of cluster-info, the certificate and the Ready node; default 15s, 10s, 5m, 2m.
	ReachFor, SignedFor, ApproveFor, ReadyFor time.Duration
	Now                                       func() time.Time
	// Report is called when a phase begins, waits and ends. No event holds a secret.
	Report func(Event)
}

// State of a phase, in an Event.
type State string

// The states.
const (
	Begun   State = "begun"
	Waiting State = "waiting"
	Done    State = "ok"
	Skipped State = "nothing to do"
	Failed  State = "failed"
)

// Event is the progress of one phase.
type Event struct {
	Phase  Phase
	State  State
	Detail string
	Took   time.Duration
}

// Joiner makes this machine a node.
type Joiner struct {
	c     JoinConfig
	pairs *Pairs
}

// NewJoiner checks its configuration and touches nothing.
func NewJoiner(c JoinConfig, certDir string) (*Joiner, error) {
	if c.Plan.NodeName == "" || certDir == "" || c.Now == nil || c.Report == nil {
		return nil, errors.New("making a joiner: a field is missing")
	}
	if c.Plan.Start && c.Service == nil {
		return nil, errors.New("making a joiner: starting the daemon requires a service manager")
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.ReachFor, 15 * time.Second}, {&c.SignedFor, 10 * time.Second}, {&c.ApproveFor, 5 * time.Minute}, {&c.ReadyFor, 2 * time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	pairs := NewPairs(certDir, clientPair)
	c.Plan.Files.Cert, c.Plan.Files.Key = pairs.Path(), pairs.keyPath()
	return &Joiner{c, pairs}, nil
}

// Plan observes this machine and returns the steps that are still needed. It changes nothing.
func (j *Joiner) Plan(ctx context.Context) ([]Step, error) {
	observed, err := j.observe(ctx)
	if err != nil {
		return nil, err
	}
	return Plan(observed, j.c.Plan, j.c.Now()), nil
}

// run is the state of one join: what it has learned so far.
type run struct {
	*Joiner
	observed Observed
	answer   answer
	cluster  cluster
	// with the bootstrap credentials; nil if there was a certificate already
	early  kubernetes.Interface
	node   kubernetes.Interface // with the node's own
	detail string
}

// Run carries the plan out, phase by phase. After a failure, another Run goes on where this one
// stopped. On a machine that has joined it does nothing and returns joined = true. Failures of a
// known class are of type *Error.
func (j *Joiner) Run(ctx context.Context) (joined bool, err error) {
	observed, err := j.observe(ctx)
	if err != nil {
		return false, err
	}
	steps := Plan(observed, j.c.Plan, j.c.Now())
	if len(steps) == 0 {
		return true, nil
	}
	r := &run{Joiner: j, observed: observed}
	for phase := PhaseHost; phase <= PhaseReady; phase++ {
		if err := r.phase(ctx, phase, steps); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (r *run) phase(ctx context.Context, phase Phase, steps []Step) error {
	var any bool
	start := r.c.Now()
	r.detail = ""
	for _, s := range steps {
		if s.Phase != phase {
			continue
		}
		if !any {
			r.c.Report(Event{Phase: phase, State: Begun})
			any = true
		}
		if err := r.do(ctx, s); err != nil {
			r.c.Report(Event{Phase: phase, State: Failed, Detail: err.Error(), Took: r.c.Now().Sub(start)})
			return err
		}
	}
	if !any {
		r.c.Report(Event{Phase: phase, State: Skipped})
		return nil
	}
	r.c.Report(Event{Phase: phase, State: Done, Detail: r.detail, Took: r.c.Now().Sub(start)})
	return nil
}

func (r *run) do(ctx context.Context, s Step) error {
	f := r.c.Plan.Files
	do, ok := map[Action]func(context.Context) error{
		CheckHost:       r.checkHost,
		FetchInfo:       r.reach,
		VerifyInfo:      r.verify,
		TrustFile:       r.trustFile,
		WriteCA:         func(context.Context) error { return r.writeCA() },
		CheckName:       r.checkName,
		MakeKey:         func(context.Context) error { _, _, err := r.pairs.pendingKey(); return err },
		RequestCert:     r.requestCert,
		WriteKubeconfig: func(context.Context) error { return r.writeKubeconfig() },
		DropBootstrap:   func(context.Context) error { return remove(f.BootstrapKubeconfig) },
		CheckProxy:      r.checkProxy,
		ReadSettings:    r.settings,
		WriteEnv:        func(context.Context) error { return writeFile(f.Env, []byte(r.c.Plan.Env), 0o644) },
		StartService:    r.startService,
		AwaitReady:      r.awaitReady,
	}[s.Action]
	if !ok {
		return fmt.Errorf("carrying out step %q: unknown action", s.Action)
	}
	return do(ctx)
}

// writeCA removes the settings first: they may be another cluster's, and a later join reads them
// again.
func (r *run) writeCA() error {
	f := r.c.Plan.Files
	if f.Settings != "" {
		if err := remove(f.Settings); err != nil {
			return err
		}
	}
	return writeFile(f.CA, r.cluster.ca, 0o644)
}

// observe reads what Plan needs from disk, from the service manager and, if the unit runs, from
// the API.
func (j *Joiner) observe(ctx context.Context) (Observed, error) {
	f := j.c.Plan.Files
	var observed Observed
	var err error
	var cas []*x509.Certificate
	caText, err := readOptional(f.CA)
	if err != nil {
		return observed, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	if caText != nil {
		if cas, err = parseCAs(caText); err == nil { // an unreadable file counts as missing
			observed.CAPins = pinsOf(cas)
		}
	}
	if observed.Cert, err = certFacts(j.pairs.Path(), cas); err != nil {
		return observed, err
	}
	observed.PendingKey = j.pairs.hasPendingKey()
	k, trust, err := readKubeconfig(f.Kubeconfig, caText)
	if err != nil {
		return observed, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	observed.KubeconfigServers, observed.KubeconfigCert, observed.KubeconfigTrust = k.servers, k.certFile, trust
	for _, o := range []struct {
		path  string
		there *bool
		text  *string
	}{{f.BootstrapKubeconfig, &observed.BootstrapKubeconfig, nil}, {f.Settings, &observed.Settings, nil}, {f.Env, nil, &observed.Env}} {
		if o.path == "" {
			continue
		}
		data, err := readOptional(o.path)
		if err != nil {
			return observed, fmt.Errorf("reading the present identity: %w", err)
		}
		if o.there != nil {
			*o.there = data != nil
		}
		if o.text != nil {
			*o.text = string(data)
		}
	}
	if j.c.Plan.Start {
		if observed.Active, observed.Enabled, err = j.c.Service.State(ctx); err != nil {
			return observed, &Error{Code: CodeHost, Err: err, Next: "install the unit: make install; or --no-start"}
		}
	}
	observed.Ready = observed.Active && j.ready(ctx)
	return observed, nil
}

// ready asks the API server once; any failure counts as not ready.
func (j *Joiner) ready(ctx context.Context) bool {
	client, err := j.nodeClient()
	if err != nil {
		return false
	}
	ok, _ := nodeReady(ctx, client, j.c.Plan.NodeName)
	return ok
}

func (j *Joiner) nodeClient() (kubernetes.Interface, error) {
	creds, err := LoadCredentials(j.c.Plan.Files.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(creds.Config(Options{UserAgent: j.c.UserAgent, QPS: -1, Timeout: 10 * time.Second}))
}
