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
	// State asks whether the unit runs and whether it starts at boot.
	State(ctx context.Context) (active, enabled bool, err error)
	// Start enables the unit and starts it, or restarts it when it runs; it returns when the unit
	// says that it is ready.
	Start(ctx context.Context) error
}

// JoinConfig is one wish to join.
type JoinConfig struct {
	// Plan is what to reach; Host what to check first; Ignore the names of checks to skip: those of
	// the host, and version, clock, proxy-rbac.
	Plan   Config
	Host   HostConfig
	Ignore []string
	// Token is the bootstrap token; not needed when Plan.Discovery has credentials, or a
	// certificate is there.
	Token Token
	// Replace takes over the name of a Ready node.
	Replace bool
	// Service is needed when Plan.Start is set.
	Service Service
	// UserAgent of all requests; Minor the Kubernetes minor version that the agent has, such as 36.
	UserAgent string
	Minor     int
	// ReachFor, SignedFor, ApproveFor and ReadyFor bound the waits; default 15s, 10s, 5m, 2m.
	ReachFor, SignedFor, ApproveFor, ReadyFor time.Duration
	Now                                       func() time.Time
	// Report is told of every phase as it begins, waits and ends; never of a secret.
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
		return nil, errors.New("making a joiner: to start the daemon takes a service manager")
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

// Plan reads what is there and returns the steps still needed. It changes nothing.
func (j *Joiner) Plan(ctx context.Context) ([]Step, error) {
	observed, err := j.observe(ctx)
	if err != nil {
		return nil, err
	}
	return Plan(observed, j.c.Plan, j.c.Now()), nil
}

// run is the state of one join: what has been learned so far. Nothing in it outlives the join.
type run struct {
	*Joiner
	observed Observed
	answer   answer
	cluster  cluster
	// with the bootstrap credentials; nil when the certificate was there already
	early  kubernetes.Interface
	node   kubernetes.Interface // with the node's own
	detail string
}

// Run carries the plan out, phase by phase. Run again after any failure, it goes on where it
// stopped; on a machine that has joined it does nothing and returns joined = true at once. Failures
// are of type *Error where a class is known.
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
		return fmt.Errorf("carrying out step %q: it is not known", s.Action)
	}
	return do(ctx)
}

// writeCA drops the settings first: they may be another cluster's, and their absence makes a later
// join read them again.
func (r *run) writeCA() error {
	f := r.c.Plan.Files
	if f.Settings != "" {
		if err := remove(f.Settings); err != nil {
			return err
		}
	}
	return writeFile(f.CA, r.cluster.ca, 0o644)
}

// observe reads what Plan wants to know from disk, from the service manager, and, when all else is
// in place, from the API.
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
		if cas, err = parseCAs(caText); err == nil { // an unreadable one counts as none
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
			return observed, fmt.Errorf("reading what is there: %w", err)
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
