package bed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// Options describe a cluster. The zero value is a control plane without nodes.
type Options struct {
	ID       string    // up to 12 of a-z and 0-9; default random
	Nodes    []Kind    // one node each, named n1, n2, …
	Detached bool      // the cluster goes on when the process that started it ends
	Log      io.Writer // progress lines; default none
	// Builder builds the programs; default tools.New(Log).
	Builder *tools.Builder
	// APIServerArgs are added to the API server's flags.
	APIServerArgs []string
	// ControllerArgs are added to the controller manager's flags.
	ControllerArgs []string
}

// Cluster is a running cluster. Stop ends it and removes every trace.
type Cluster struct {
	run     *run
	opts    Options
	tools   tools.Paths
	started time.Time

	cp     *machine
	procs  map[string]*Process // the control plane's, by name
	caHash string
	caPEM  string

	mu    sync.Mutex
	nodes []*Node
}

// validID keeps names of namespaces and cgroups short and harmless.
var validID = regexp.MustCompile(`^[a-z0-9]{1,12}$`)

// Start starts a cluster and its nodes. It returns when the API answers, cluster DNS runs and every
// node's agent is started, but not yet Ready (see Node.WaitReady). It first builds programs that
// are missing. If it fails, it leaves nothing behind.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.ID == "" {
		opts.ID = strings.ToLower(rand.Text()[:6])
	}
	if !validID.MatchString(opts.ID) {
		return nil, fmt.Errorf("starting a cluster %q: the name must be 1 to 12 letters a-z and digits", opts.ID)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a cluster: needs root, for namespaces and mounts")
	}
	c := &Cluster{opts: opts, procs: map[string]*Process{}}
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	loadModules(ctx)
	owner, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	c.started = time.Now()
	if c.run, err = newRun(ctx, record{ID: opts.ID, Owner: owner, Detached: opts.Detached, Token: newToken()}); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("starting cluster %q: %w", opts.ID, err)
		return nil, errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
	}
	return c, c.run.update(func(r *record) { r.Complete, r.Env = true, c.Env() })
}

// loadModules loads the kernel modules that a cluster needs, which namespaces cannot do. A module
// that cannot be loaded is built in, or its absence shows where it is needed.
func loadModules(ctx context.Context) {
	modules := []string{"overlay", "bridge", "br_netfilter", "veth", "nf_conntrack", "nf_nat", "ip_tables", "iptable_nat", "nf_tables"}
	_ = exec.CommandContext(ctx, "modprobe", append([]string{"--all", "--quiet"}, modules...)...).Run()
}

// build builds every program that the cluster and its nodes need.
func (c *Cluster) build(ctx context.Context) error {
	if c.opts.Builder == nil {
		b, err := tools.New(c.opts.Log)
		if err != nil {
			return err
		}
		c.opts.Builder = b
	}
	names := append(tools.ControlPlane(), tools.Node()...)
	for _, k := range c.opts.Nodes {
		names = append(names, k.Tools()...)
	}
	paths, err := c.opts.Builder.Build(ctx, names...)
	if err != nil {
		return err
	}
	c.tools = paths
	return nil
}

// start starts the control plane and the nodes' containerds side by side, then the nodes' agents.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.newControlPlaneMachine(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startControlPlane(gctx) })
	nodes := make([]*Node, len(c.opts.Nodes))
	for i, k := range c.opts.Nodes {
		g.Go(func() (err error) {
			nodes[i], err = c.newNode(gctx, fmt.Sprintf("n%d", i+1), k)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, n := range nodes {
		g.Go(func() error { return n.startKind(gctx) })
	}
	return g.Wait()
}

// AddNode adds a node of the kind to the running cluster and starts its agent. The kind's programs
// must exist: for a kind that no other node has, Options.Builder may have to build them first.
func (c *Cluster) AddNode(ctx context.Context, name string, kind Kind) (*Node, error) {
	extra, err := c.opts.Builder.Build(ctx, append(c.tools.Names(), kind.Tools()...)...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.tools = extra
	c.mu.Unlock()
	n, err := c.newNode(ctx, name, kind)
	if err != nil {
		return nil, err
	}
	return n, n.startKind(ctx)
}

// ID is the cluster's name. It is part of the name of everything that the cluster has outside of
// its namespaces.
func (c *Cluster) ID() string { return c.run.rec.ID }

// Dir is the run folder. Stop removes it.
func (c *Cluster) Dir() string { return c.run.dir }

// LogDir is the folder of all processes' logs, one file a process.
func (c *Cluster) LogDir() string { return c.run.path("log") }

// Tools returns the paths of the programs that the cluster runs on.
func (c *Cluster) Tools() tools.Paths {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tools
}

// Builder built those programs; tests can build more with it.
func (c *Cluster) Builder() *tools.Builder { return c.opts.Builder }

// Nodes lists the nodes that have their own namespaces, in the order of their creation.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Process returns a process of the control plane by name: "etcd", "kube-apiserver",
// "kube-controller-manager", "kube-scheduler" or "coredns"; nil if there is none.
func (c *Cluster) Process(name string) *Process { return c.procs[name] }

// Server is the API server's host and port.
func (c *Cluster) Server() string { return net.JoinHostPort(controlPlaneIP, "6443") }

// Token is a bootstrap token that is valid for a day.
func (c *Cluster) Token() string { return c.run.rec.Token }

// CAHash is what --discovery-token-ca-cert-hash takes: "sha256:" and the hash of the CA's public
// key in hex.
func (c *Cluster) CAHash() string { return c.caHash }

// CA is the cluster's CA certificate, PEM.
func (c *Cluster) CA() string { return c.caPEM }

// CAFile is the path of the cluster's CA certificate.
func (c *Cluster) CAFile() string { return c.run.path("cp/pki/ca.crt") }

// Kubeconfig is the path of a kubeconfig with all rights. Its server is reachable only inside the
// cluster's namespaces: see Dial and Command.
func (c *Cluster) Kubeconfig() string { return c.run.path("cp/super-admin.conf") }

// NetNS is the name of the control plane's network namespace, as ip(8) and nsenter
// --net=/run/netns/NAME use it.
func (c *Cluster) NetNS() string { return c.cp.netns }

// Env is the environment of Command's programs, in addition to the test's own.
func (c *Cluster) Env() []string {
	return []string{"KUBECONFIG=" + c.Kubeconfig(), "PATH=" + c.searchPath(), "BED_ID=" + c.ID(), "BED_NETNS=" + c.NetNS()}
}

func (c *Cluster) searchPath() string { return c.Tools().SearchPath() + ":" + os.Getenv("PATH") }

// Dial connects from inside the control plane's network namespace, which reaches the API server,
// every node and every pod; use it as rest.Config.Dial. The address must be an IP address with a
// port.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.cp.dial(ctx, network, address)
}

// Command prepares a program in the control plane's network namespace, with KUBECONFIG and PATH
// set. It sees the files of the machine that the test runs on.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netnsDir + c.cp.netns, "--", name}, args...)...)
	cmd.Env = append(environment(), c.Env()...)
	return cmd
}

// Kubectl runs kubectl with all rights and returns its output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(c.Command(ctx, "kubectl", args...))
}

// Apply passes manifests to `kubectl apply`.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	cmd := c.Command(ctx, "kubectl", "apply", "--server-side", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	_, err := output(cmd)
	return err
}

// Record ties a process outside of the cluster's machines, such as a User-Mode Linux kernel, to the
// cluster: it ends with the cluster, even if the test is killed and the next run sweeps.
func (c *Cluster) Record(pid int) error {
	id, err := identify(pid)
	if err != nil {
		return err
	}
	return c.run.update(func(r *record) { r.Foreign = append(r.Foreign, id) })
}

// Stop ends every process of the cluster and removes namespaces, cgroups and the run folder. It may
// be called again.
func (c *Cluster) Stop(ctx context.Context) error {
	for _, m := range c.machines() {
		if m.life != nil {
			_ = m.life.Close()
		}
	}
	unlock, err := lockBase(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return removeRun(ctx, c.run)
}

func (c *Cluster) machines() (out []*machine) {
	if c.cp != nil {
		out = append(out, c.cp)
	}
	for _, n := range c.Nodes() {
		out = append(out, n.machine)
	}
	return out
}

func (c *Cluster) logf(format string, args ...any) {
	if c.opts.Log != nil {
		_, _ = fmt.Fprintf(c.opts.Log, "[%5.1fs] "+format+"\n", append([]any{time.Since(c.started).Seconds()}, args...)...)
	}
}

// poll calls try until it returns nil, the context ends or the limit is reached; then it returns
// the last error.
func poll(ctx context.Context, limit, every time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting, given up after %s: %w", limit, err)
		case <-time.After(every):
		}
	}
}
