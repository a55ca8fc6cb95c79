package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
	"github.com/nodeagent/nodeagent/test/conformance"
)

// listComment heads the list of specs.
const listComment = `Specs of the Kubernetes e2e suite that the agent passes. A spec listed here that fails breaks the build.
Written by: make conformance UPDATE=1. Lines are only ever added.`

func run(ctx context.Context, s settings) error {
	b, err := tools.New(os.Stderr)
	if err != nil {
		return err
	}
	if err := s.resolve(b.Source, time.Now()); err != nil {
		return err
	}
	if err := s.choose(ctx, b.Source, time.Now()); err != nil {
		return err
	}
	programs, err := b.Build(ctx, "e2e.test", "ginkgo", "kubectl")
	if err != nil {
		return err
	}
	suite := suite{settings: s, ginkgo: programs.Get("ginkgo"), e2e: programs.Get("e2e.test"), kubectl: programs.Get("kubectl")}
	if s.dryRun {
		return suite.list(ctx)
	}
	cluster, err := s.cluster(ctx, b)
	if err != nil {
		return err
	}
	defer func() { s.end(context.WithoutCancel(ctx), cluster) }()
	report, err := suite.beside(ctx, cluster)
	if err != nil {
		return fmt.Errorf("running the suite (see %s): %w", s.artifacts, err)
	}
	var unstable []conformance.Spec
	if s.rotate {
		if report, unstable, err = suite.again(ctx, cluster, report); err != nil {
			return fmt.Errorf("running what failed once more (see %s): %w", s.artifacts, err)
		}
	}
	return s.judge(report, unstable)
}

// cluster starts a cluster with the requested nodes, all images on them.
func (s settings) cluster(ctx context.Context, b *tools.Builder) (*bed.Cluster, error) {
	var config []byte
	if s.config != "" {
		var err error
		if config, err = os.ReadFile(s.config); err != nil {
			return nil, fmt.Errorf("reading the nodes' configuration: %w", err)
		}
	}
	// Images are assembled before the cluster starts, because the first time takes minutes.
	if _, err := bed.BuildImages(ctx, b); err != nil {
		return nil, err
	}
	var kind bed.Kind = bed.NodeAgent{Dir: s.programs, Config: string(config)}
	if s.peer {
		kind = bed.Peer{KubeletConfig: string(config), ProxyMode: s.proxyMode}
	}
	kinds := make([]bed.Kind, s.nodes)
	for i := range kinds {
		kinds[i] = kind
	}
	c, err := bed.Start(ctx, bed.Options{Nodes: kinds, Detached: s.keep, Log: os.Stderr, Builder: b})
	if err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", err)
	}
	ready := func() error {
		if err := c.LoadImages(ctx); err != nil {
			return err
		}
		for _, n := range c.Nodes() {
			if err := n.WaitReady(ctx, time.Minute); err != nil {
				return err
			}
		}
		return labelZones(ctx, c)
	}
	if err := ready(); err != nil {
		err = fmt.Errorf("preparing the cluster (logs in %s): %w", filepath.Join(s.artifacts, "logs"), err)
		s.end(context.WithoutCancel(ctx), c)
		return nil, err
	}
	return c, nil
}

// labelZones spreads the nodes over three zones, like cloud providers label joined nodes.
func labelZones(ctx context.Context, c *bed.Cluster) error {
	for i, n := range c.Nodes() {
		if _, err := c.Kubectl(ctx, "label", "node", n.Name, fmt.Sprintf("%s=zone-%d", corev1.LabelTopologyZone, i%3+1)); err != nil {
			return err
		}
	}
	return nil
}

// end copies the logs and stops the cluster, unless it should be kept.
func (s settings) end(ctx context.Context, c *bed.Cluster) {
	if err := exec.CommandContext(ctx, "cp", "-a", c.LogDir()+"/.", filepath.Join(s.artifacts, "logs")).Run(); err != nil {
		fmt.Fprintln(os.Stderr, "keeping the logs:", err)
	}
	if s.keep {
		fmt.Fprintf(os.Stderr, "The cluster %s goes on: `bin/bed exec %s kubectl get pods -A` looks at it, `bin/bed down %s` ends it.\n", c.ID(), c.ID(), c.ID())
		return
	}
	if err := c.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the cluster:", err)
	}
}

// judge prints the summary, saves it with the reports, and compares with the list.
func (s settings) judge(r conformance.Report, unstable []conformance.Spec) error {
	listed, err := readList(s.list)
	if err != nil {
		return err
	}
	v := conformance.Judge(listed, r)
	v.Unstable = unstable
	if s.list == "" {
		v.New = nil // to nothing, everything would be
	}
	summary := v.Summary()
	fmt.Print(summary)
	fmt.Println("Reports and logs are in", s.artifacts)
	if err := os.WriteFile(filepath.Join(s.artifacts, "summary.txt"), []byte(summary), 0o644); err != nil {
		return fmt.Errorf("keeping the summary: %w", err)
	}
	if err := writeList(filepath.Join(s.artifacts, "passed.txt"), "Specs that passed in this run.", conformance.Names(v.Passed)); err != nil {
		return err
	}
	if s.update && s.list != "" {
		if err := s.learn(listed, v, r); err != nil {
			return err
		}
	}
	if !v.OK() {
		return errRegressed
	}
	return nil
}

// learn adds newly passing specs to the list, and records how long passed specs took.
func (s settings) learn(listed []string, v conformance.Verdict, r conformance.Report) error {
	if len(v.New) > 0 {
		if err := writeList(s.list, listComment, v.Merge(listed)); err != nil {
			return err
		}
		fmt.Printf("%s has grown by %d.\n", s.list, len(v.New))
	}
	d, err := readDurations(s.durations())
	if err != nil {
		return err
	}
	d.Learn(r)
	var b bytes.Buffer
	if err := conformance.WriteDurations(&b, durationsComment, d); err != nil {
		return fmt.Errorf("writing durations of specs: %w", err)
	}
	if err := os.WriteFile(s.durations(), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing durations of specs: %w", err)
	}
	return nil
}

func readList(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening list of specs: %w", err)
	}
	defer func() { _ = f.Close() }()
	return conformance.ParseList(f)
}

func writeList(path, comment string, names []string) error {
	var b bytes.Buffer
	if err := conformance.WriteList(&b, comment, names); err != nil {
		return fmt.Errorf("writing list of specs: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing list of specs: %w", err)
	}
	return nil
}

// suite is the e2e suite with the specs to run.
type suite struct {
	settings
	ginkgo, e2e, kubectl string
}

// again runs failed specs once more, one at a time. One that passes then is no regression, but it
// is reported: the machine may have been too busy, or the agent may have a rare fault.
func (s suite) again(ctx context.Context, c *bed.Cluster, first conformance.Report) (conformance.Report, []conformance.Spec, error) {
	failed := conformance.Judge(nil, first).Failed
	if len(failed) == 0 || len(first.Suite) > 0 {
		return first, nil, nil
	}
	fmt.Fprintf(os.Stderr, "%d specs have FAILED; each runs once more, alone:\n", len(failed))
	for _, f := range failed {
		fmt.Fprintf(os.Stderr, "  %s\n      %s\n", f.Name, f.Failure)
	}
	s.focus, s.procs, s.artifacts = conformance.Focus(conformance.Names(failed)), 1, filepath.Join(s.artifacts, "again")
	if err := os.MkdirAll(s.artifacts, 0o755); err != nil {
		return first, nil, fmt.Errorf("making artifacts folder: %w", err)
	}
	second, err := s.beside(ctx, c)
	if err != nil {
		return first, nil, err
	}
	merged, unstable := first.Retried(second)
	return merged, unstable, nil
}

// selection returns ginkgo's flags that select the specs.
func (s suite) selection() []string {
	args := []string{"--focus=" + s.focus}
	if s.skip != "" {
		args = append(args, "--skip="+s.skip)
	}
	return args
}

// beside runs the suite while a load balancer runs.
func (s suite) beside(ctx context.Context, c *bed.Cluster) (conformance.Report, error) {
	balancing, stop := context.WithCancel(ctx)
	var report conformance.Report
	g, gctx := errgroup.WithContext(balancing)
	g.Go(func() error { return c.Balance(gctx) })
	g.Go(func() (err error) {
		defer stop()
		report, err = s.run(gctx, c)
		return err
	})
	err := g.Wait()
	return report, err
}

// run runs the suite inside the control plane's network namespace and reads its report.
func (s suite) run(ctx context.Context, c *bed.Cluster) (conformance.Report, error) {
	log, err := os.Create(filepath.Join(s.artifacts, "ginkgo.log"))
	if err != nil {
		return conformance.Report{}, fmt.Errorf("making the suite's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	args := append(s.selection(), "--procs="+strconv.Itoa(s.procs), "--timeout="+s.timeout.String(), "--no-color", "--output-dir="+s.artifacts,
		"--junit-report=junit.xml", "--json-report=report.json", "--keep-going", s.e2e, "--",
		"--kubeconfig="+c.Kubeconfig(), "--provider=skeleton", "--kubectl-path="+s.kubectl, "--dns-domain="+bed.ClusterDomain,
		"--num-nodes="+strconv.Itoa(s.nodes), "--disable-log-dump")
	cmd := c.Command(ctx, s.ginkgo, args...)
	cmd.Dir = s.artifacts
	p := newProgress(os.Stderr)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, p), log
	// An interrupted suite still writes its report.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	fmt.Fprintf(os.Stderr, "running %s (output: %s)\n", s.title(), log.Name())
	runErr := cmd.Run()
	p.end()
	f, err := os.Open(filepath.Join(s.artifacts, "report.json"))
	if err != nil {
		return conformance.Report{}, errors.Join(runErr, fmt.Errorf("opening the suite's report: %w", err))
	}
	defer func() { _ = f.Close() }()
	// The report says which specs failed; the exit status adds nothing.
	return conformance.ParseReport(f)
}

// list prints the specs that would run.
func (s suite) list(ctx context.Context) error {
	args := append(s.selection(), "--dry-run", "--no-color", "--output-dir="+s.artifacts, "--json-report=report.json", s.e2e, "--", "--provider=skeleton")
	cmd := exec.CommandContext(ctx, s.ginkgo, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("listing specs: %w: %s", err, out)
	}
	f, err := os.Open(filepath.Join(s.artifacts, "report.json"))
	if err != nil {
		return fmt.Errorf("opening the suite's report: %w", err)
	}
	defer func() { _ = f.Close() }()
	r, err := conformance.ParseReport(f)
	if err != nil {
		return err
	}
	for _, spec := range r.Specs {
		fmt.Println(spec.Name)
	}
	fmt.Fprintln(os.Stderr, len(r.Specs), "specs")
	return nil
}
