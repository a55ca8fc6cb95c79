package bed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // manifests and configuration are files that people read
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// Addresses; they are the same in every cluster.
const (
	controlPlaneIP = "192.168.77.1"
	nodeNetwork    = "192.168.77.0/24"
	PodNetwork     = "10.244.0.0/16"
	ServiceNetwork = "10.96.0.0/16"
	DNSServiceIP   = "10.96.0.10"
	ClusterDomain  = "cluster.local"
	// Bridge connects the machines of a cluster. It is inside the control plane's network namespace
	// and has the control plane's address, which is the other machines' gateway and name server.
	Bridge = "br0"
)

//go:embed kubeadm.yaml
var kubeadmConfig string

//go:embed manifests.yaml
var manifests string

// newToken makes a bootstrap token: six and sixteen of a-z and 0-9.
func newToken() string {
	s := strings.ToLower(rand.Text())
	return s[:6] + "." + s[6:22]
}

// newControlPlaneMachine creates the control plane's namespaces, to which all nodes connect.
func (c *Cluster) newControlPlaneMachine(ctx context.Context) error {
	m, err := newMachine(ctx, c.run, "cp", "plain")
	if err != nil {
		return err
	}
	c.cp = m
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", Bridge, "type", "bridge"},
		{"addr", "add", controlPlaneIP + "/24", "dev", Bridge},
		{"link", "set", Bridge, "up"},
	} {
		if err := ip(ctx, append([]string{"-n", m.netns}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// startControlPlane makes the certificates and starts the API's components.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.makePKI(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	c.logf("API server is ready")
	if err := c.startControllers(); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for _, phase := range []string{"upload-config all", "bootstrap-token"} {
			args := append([]string{"init", "phase"}, strings.Fields(phase)...)
			if err := c.kubeadm(gctx, append(args, "--kubeconfig", c.Kubeconfig(), "--config", c.run.path("cp/kubeadm.yaml"))...); err != nil {
				return err
			}
		}
		return c.waitSigned(gctx)
	})
	g.Go(func() error { return c.applyManifests(gctx) })
	g.Go(func() error { return c.startDNS() })
	g.Go(func() error {
		// Until then no pod can be created in the namespace "default".
		return poll(gctx, 2*time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
			_, err := c.Kubectl(ctx, "get", "serviceaccount", "default")
			return err
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	c.logf("bootstrap token, node rights and cluster DNS are set up")
	return nil
}

// waitSigned waits until cluster-info has the token's signature, without which nobody can join.
func (c *Cluster) waitSigned(ctx context.Context) error {
	id, _, _ := strings.Cut(c.Token(), ".")
	err := poll(ctx, 2*time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "get", "configmap", "-n", "kube-public", "cluster-info", "-o", "jsonpath={.data.jws-kubeconfig-"+id+"}")
		if err == nil && out == "" {
			err = errors.New("there is none yet")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the signature of cluster-info: %w", err)
	}
	return nil
}

// startCP starts a process of the control plane.
func (c *Cluster) startCP(name string, args ...string) error {
	p, err := c.cp.start(nil, Spec{Name: name, Path: c.tools.Get(name), Args: args})
	if err != nil {
		return err
	}
	c.procs[name] = p
	return nil
}

func (c *Cluster) startEtcd() error {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return c.startCP("etcd", "--name=bed", "--data-dir="+c.run.path("cp/etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=bed="+peer)
}

func (c *Cluster) kubeadm(ctx context.Context, args ...string) error {
	_, err := c.cp.output(ctx, c.Env(), c.tools.Get("kubeadm"), args...)
	return err
}

// makePKI lets kubeadm make keys, certificates and kubeconfigs, as in real clusters.
func (c *Cluster) makePKI(ctx context.Context) error {
	config := c.run.path("cp/kubeadm.yaml")
	text := strings.NewReplacer(
		"${TOKEN}", c.Token(), "${PKI}", c.run.path("cp/pki"), "${VERSION}", tools.KubernetesVersion, "${SERVER}", c.Server(),
		"${ADDRESS}", controlPlaneIP, "${PODS}", PodNetwork, "${SERVICES}", ServiceNetwork, "${DNS}", DNSServiceIP,
		"${DOMAIN}", ClusterDomain,
	).Replace(kubeadmConfig)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing kubeadm configuration: %w", err)
	}
	if err := c.kubeadm(ctx, "init", "phase", "certs", "all", "--config", config); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range []string{"super-admin", "controller-manager", "scheduler"} {
		g.Go(func() error {
			return c.kubeadm(gctx, "init", "phase", "kubeconfig", name, "--config", config, "--kubeconfig-dir", c.run.path("cp"))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	content, err := os.ReadFile(c.CAFile())
	if err != nil {
		return fmt.Errorf("reading CA certificate: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return fmt.Errorf("reading CA certificate %q: no PEM block", c.CAFile())
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("reading CA certificate: %w", err)
	}
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	c.caPEM = string(content)
	c.caHash = "sha256:" + hex.EncodeToString(sum[:])
	return nil
}

// startAPIServer starts the API server and waits until it is ready.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	pki := c.run.path("cp/pki") + "/"
	args := []string{
		"--advertise-address=" + controlPlaneIP, "--secure-port=6443", "--etcd-servers=http://127.0.0.1:2379",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth",
		"--allow-privileged", "--service-cluster-ip-range=" + ServiceNetwork,
		// The control plane's namespace does not route ClusterIPs, so the API server talks to
		// endpoints.
		"--enable-aggregator-routing",
		"--client-ca-file=" + pki + "ca.crt", "--tls-cert-file=" + pki + "apiserver.crt", "--tls-private-key-file=" + pki + "apiserver.key",
		"--kubelet-client-certificate=" + pki + "apiserver-kubelet-client.crt", "--kubelet-client-key=" + pki + "apiserver-kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pki + "front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki + "front-proxy-client.crt", "--proxy-client-key-file=" + pki + "front-proxy-client.key",
		"--service-account-issuer=https://kubernetes.default.svc." + ClusterDomain,
		"--service-account-key-file=" + pki + "sa.pub", "--service-account-signing-key-file=" + pki + "sa.key",
	}
	if err := c.startCP("kube-apiserver", append(args, c.opts.APIServerArgs...)...); err != nil {
		return err
	}
	return c.WaitAPI(ctx)
}

// WaitAPI waits until the API server is ready.
func (c *Cluster) WaitAPI(ctx context.Context) error {
	ca, err := os.ReadFile(c.CAFile())
	if err != nil {
		return fmt.Errorf("reading CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: c.Dial, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
	}}
	server := c.procs["kube-apiserver"]
	err = poll(ctx, 3*time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		if !server.Running() {
			return fmt.Errorf("the API server ended: %w", server.Err())
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Server()+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s: %s", resp.Status, body)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the API server: %w\n%s", err, logTail(server.Log(), 10))
	}
	return nil
}

func (c *Cluster) startControllers() error {
	pki := c.run.path("cp/pki") + "/"
	config := func(name string) []string {
		f := c.run.path("cp", name+".conf")
		return []string{
			"--kubeconfig=" + f, "--authentication-kubeconfig=" + f, "--authorization-kubeconfig=" + f, "--bind-address=127.0.0.1", "--leader-elect=false",
			// With the default limits the controllers need five seconds to start.
			"--kube-api-qps=500", "--kube-api-burst=1000",
		}
	}
	args := append(config("controller-manager"),
		"--controllers=*,bootstrapsigner,tokencleaner", "--use-service-account-credentials", "--cluster-name=bed",
		// The bed assigns pod networks itself: a node's CNI is configured before the API knows the
		// node.
		"--allocate-node-cidrs=false", "--cluster-cidr="+PodNetwork, "--service-cluster-ip-range="+ServiceNetwork,
		"--client-ca-file="+pki+"ca.crt", "--root-ca-file="+pki+"ca.crt", "--requestheader-client-ca-file="+pki+"front-proxy-ca.crt",
		"--cluster-signing-cert-file="+pki+"ca.crt", "--cluster-signing-key-file="+pki+"ca.key",
		"--service-account-private-key-file="+pki+"sa.key")
	return errors.Join(
		c.startCP("kube-controller-manager", append(args, c.opts.ControllerArgs...)...),
		c.startCP("kube-scheduler", config("scheduler")...),
	)
}

// applyManifests applies what the product and the bed add to a kubeadm cluster.
func (c *Cluster) applyManifests(ctx context.Context) error {
	product, err := os.ReadFile(filepath.Join(c.opts.Builder.Source, "deploy/node-proxier.yaml"))
	if err != nil {
		return fmt.Errorf("reading the product's manifest: %w", err)
	}
	own := strings.NewReplacer("${DNS}", DNSServiceIP, "${ADDRESS}", controlPlaneIP).Replace(manifests)
	return c.Apply(ctx, string(product)+"\n---\n"+own)
}

// startDNS runs CoreDNS as a process; the Service kube-dns has no selector but an EndpointSlice
// with its address.
func (c *Cluster) startDNS() error {
	corefile := fmt.Sprintf(`.:53 {
	bind %s
	errors
	health 127.0.0.1:8080
	ready 127.0.0.1:8181
	kubernetes %s in-addr.arpa ip6.arpa {
		kubeconfig %s
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 30
	}
	prometheus %s:9153
	cache 30
	loadbalance
}
`, controlPlaneIP, ClusterDomain, c.Kubeconfig(), controlPlaneIP)
	path := c.run.path("cp/Corefile")
	if err := os.WriteFile(path, []byte(corefile), 0o644); err != nil {
		return fmt.Errorf("writing Corefile: %w", err)
	}
	return c.startCP("coredns", "-conf", path)
}
