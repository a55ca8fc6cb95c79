package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// say adds to the line that ends the phase.
func (r *run) say(format string, args ...any) {
	if r.detail != "" {
		r.detail += ", "
	}
	r.detail += fmt.Sprintf(format, args...)
}

func (r *run) ignored(check string) bool {
	return ignores(r.c.Ignore, check)
}

func (r *run) checkHost(ctx context.Context) error {
	findings := checkHost(ctx, hostChecks(r.c.Host, r.observed.Active), r.c.Ignore)
	r.say("%s", factsOf(findings))
	return Failure(findings)
}

func (r *run) discovery() *discovery {
	return &discovery{
		servers: r.c.Plan.Servers, token: r.c.Token, pins: r.c.Plan.Pins, unpinned: r.c.Plan.Unpinned,
		reachFor: r.c.ReachFor, signedFor: r.c.SignedFor, now: r.c.Now,
	}
}

func (r *run) reach(ctx context.Context) error {
	if r.c.Token.IsZero() {
		return fail(CodeToken, tokenNext, "joining requires a token: give --token, --token-file or NODEAGENT_TOKEN")
	}
	a, err := r.discovery().reach(ctx)
	if err != nil {
		return err
	}
	r.answer = a
	r.say("%s", a.server)
	if a.skew.Abs() >= time.Second {
		r.say("clock differs by %s", a.skew.Round(time.Second))
	}
	return r.skippable("clock", compareClocks(a.skew, a.server))
}

func (r *run) verify(ctx context.Context) error {
	c, err := r.discovery().verify(ctx, r.answer)
	if err != nil {
		return err
	}
	r.cluster = c
	r.say("CA %s, signature ok", pinTexts(pinsOf(c.certs)))
	config := &rest.Config{
		Host: "https://" + c.server, BearerToken: r.c.Token.bearer(), UserAgent: r.c.UserAgent, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
	}
	return r.useEarly(ctx, config)
}

// trustFile takes address, CA and, if there are any, credentials from a kubeconfig that the user
// trusts.
func (r *run) trustFile(ctx context.Context) error {
	file := r.c.Plan.Discovery
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return fail(CodeTrust, "check --discovery-file", "reading kubeconfig %q: %w", file, err)
	}
	if len(config.CAData) == 0 && config.CAFile != "" {
		if config.CAData, err = os.ReadFile(config.CAFile); err != nil {
			return fail(CodeTrust, "check --discovery-file", "reading the CA of kubeconfig %q: %w", file, err)
		}
	}
	certs, err := parseCAs(config.CAData)
	u, urlErr := url.Parse(config.Host)
	if err = errors.Join(err, urlErr); err != nil || u.Scheme != "https" || config.Insecure {
		return fail(CodeTrust, "check --discovery-file: it must name an https server and its CA", "reading kubeconfig %q: %w", file, err)
	}
	r.cluster = cluster{server: u.Host, ca: config.CAData, certs: certs}
	if config.BearerToken == "" && config.BearerTokenFile == "" && config.CertFile == "" && len(config.CertData) == 0 {
		config.BearerToken = r.c.Token.bearer()
	}
	config.UserAgent, config.QPS = r.c.UserAgent, -1
	r.say("%s, CA %s from file", u.Host, pinTexts(pinsOf(certs)))
	return r.useEarly(ctx, config)
}

func (r *run) useEarly(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	r.early = client
	return r.checkVersion(ctx)
}

// checkVersion is the first request with the token: it proves that the token is accepted.
func (r *run) checkVersion(ctx context.Context) error {
	body, err := r.early.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	switch {
	case apierrors.IsUnauthorized(err):
		return fail(CodeToken, tokenNext, "asking the API server for its version: it does not accept the token (id %q)", r.c.Token.ID())
	case apierrors.IsForbidden(err):
		return nil // some clusters do not let everybody read it
	case err != nil:
		return fail(CodeReach, "run the same command again", "asking the API server for its version: %w", err)
	}
	git, minor := versionOf(body)
	r.say("%s", git)
	return r.skippable("version", compareVersions(git, minor, r.c.Minor))
}

func (r *run) checkName(ctx context.Context) error {
	name := r.c.Plan.NodeName
	n, err := r.early.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		r.say("%s (free)", name)
		return nil
	case apierrors.IsUnauthorized(err):
		return fail(CodeToken, tokenNext, "looking for node %q: the API server does not accept the token (id %q)", name, r.c.Token.ID())
	case apierrors.IsForbidden(err):
		r.say("%s (the token has no right to check whether it is free)", name)
		return nil
	case err != nil:
		return fail(CodeReach, "run the same command again", "looking for node %q: %w", name, err)
	}
	if ok, _ := readyOf(n); ok && !r.c.Replace {
		return fail(CodeNameTaken, "give another name: --node-name NAME; or take this one over: --replace",
			"looking for node %q: there is one, and it is Ready (%s)", name, addressOf(n))
	}
	r.say("%s (exists, taken over)", name)
	return nil
}

func addressOf(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return "no address"
}

func (r *run) requestCert(ctx context.Context) error {
	key, keyPEM, err := r.pairs.pendingKey()
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, r.c.ApproveFor)
	defer cancel()
	var name string
	stop := func() {}
	certPEM, err := clientRequest(r.c.Plan.NodeName).sign(wait, r.early, key, func(n string) {
		name = n
		stop = after(wait, time.Second, func() {
			r.c.Report(Event{Phase: PhaseCertificate, State: Waiting, Detail: "request " + n + " waits for approval: kubectl certificate approve " + n})
		})
	})
	stop()
	if err != nil {
		return dropRefused(r.pairs, err)
	}
	pair, err := r.pairs.Save(certPEM, keyPEM, r.c.Now())
	if err != nil {
		return err
	}
	r.say("%s approved, valid to %s", name, leafOf(pair).NotAfter.UTC().Format(time.DateOnly))
	return nil
}

// after calls f once after d, unless stop is called or ctx ends before. When stop returns, f does
// not run any more.
func after(ctx context.Context, d time.Duration, f func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if sleep.For(ctx, d) == nil {
			f()
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (r *run) writeKubeconfig() error {
	f := r.c.Plan.Files
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return fmt.Errorf("reading the cluster's CA: %w", err)
	}
	servers := r.servers()
	if len(servers) == 0 {
		return fail(CodeReach, "nodeagent join HOST:6443", "writing the kubeconfig: the server's address is not known")
	}
	text, err := renderKubeconfig(servers, ca, r.c.Plan.NodeName, f.Cert)
	if err != nil {
		return err
	}
	return writeFile(f.Kubeconfig, text, 0o600)
}

// servers are all known API servers, beginning with the one that answered.
func (r *run) servers() []string {
	var all []string
	for _, s := range append([]string{r.cluster.server}, r.c.Plan.Servers...) {
		if s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func (r *run) asNode() (kubernetes.Interface, error) {
	if r.node != nil {
		return r.node, nil
	}
	client, err := r.nodeClient()
	if err != nil {
		return nil, err
	}
	r.node = client
	return client, nil
}

func (r *run) settings(ctx context.Context) error {
	node, err := r.asNode()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s := readSettings(bounded, thisMachine("/"), node, r.early)
	text, err := s.documents()
	if err != nil {
		return err
	}
	r.say("%s", s)
	return writeFile(r.c.Plan.Files.Settings, text, 0o644)
}

// thisMachine observes what decides which settings fit; root is "/" except in tests.
func thisMachine(root string) machine {
	there := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}
	hosts, _ := os.ReadFile(filepath.Join(root, "/etc/resolv.conf"))
	return machine{
		Systemd: there("/run/systemd/system"), // as sd_booted(3) asks
		// resolved's stub listens there; a file that names real servers stays in use
		Resolved: there(resolvedFile) && strings.Contains(string(hosts), "127.0.0.53"),
	}
}

// checkProxy asks the API server for the node's permissions: a watch that is refused later is
// harder to understand.
func (r *run) checkProxy(ctx context.Context) error {
	if r.ignored("proxy-rbac") {
		return nil
	}
	node, err := r.asNode()
	if err != nil {
		return err
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Group: "discovery.k8s.io", Resource: "endpointslices"},
	}}
	got, err := node.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return fail(CodeReach, "run the same command again", "checking the node's permissions: %w", err)
	}
	if !got.Status.Allowed {
		return fail(CodeProxy, "kubectl create clusterrolebinding nodeagent:node-proxier --clusterrole=system:node-proxier --group=system:nodes; "+
			"or run without the services half: --proxier=off; or skip the check: --ignore proxy-rbac",
			"checking the node's permissions: it may not list EndpointSlices")
	}
	return nil
}

func (r *run) startService(ctx context.Context) error {
	if err := r.c.Service.Start(ctx); err != nil {
		return &Error{Code: CodeNotReady, Err: err, Next: "journalctl -u " + r.c.Plan.Unit + " -n 50"}
	}
	r.say("%s active", r.c.Plan.Unit)
	return nil
}

func (r *run) awaitReady(ctx context.Context) error {
	node, err := r.asNode()
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, r.c.ReadyFor)
	defer cancel()
	var said string
	for {
		ok, why := nodeReady(wait, node, r.c.Plan.NodeName)
		if ok {
			r.say("%s", r.c.Plan.NodeName)
			return nil
		}
		if why != said && wait.Err() == nil {
			said = why
			r.c.Report(Event{Phase: PhaseReady, State: Waiting, Detail: why})
		}
		if sleep.For(wait, 200*time.Millisecond) != nil {
			return fail(CodeNotReady, "nodeagent status   (and: journalctl -u "+r.c.Plan.Unit+" -n 50)",
				"waiting for node %q: not Ready after %s: %s", r.c.Plan.NodeName, r.c.ReadyFor, said)
		}
	}
}

func nodeReady(ctx context.Context, client kubernetes.Interface, name string) (ok bool, why string) {
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, "it is not registered yet"
	case err != nil:
		return false, err.Error()
	}
	return readyOf(n)
}

func readyOf(n *corev1.Node) (ok bool, why string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, strings.TrimSpace(c.Reason + ": " + c.Message)
		}
	}
	return false, "it has no condition Ready yet"
}
