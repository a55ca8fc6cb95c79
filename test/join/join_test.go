// Package join_test joins real machines to a real API server: joins that work, and joins that must
// be refused, each with its exit code and each followed by one that succeeds.
package join_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// machine runs `nodeagent join` on one node of the bed.
type machine struct {
	t       *testing.T
	c       *bed.Cluster
	node    *bed.Node
	program string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	bed.Require(t)
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	dir, err := bed.Programs(t.Context(), c.Builder())
	if err != nil {
		t.Fatalf("building the programs: %v", err)
	}
	m := &machine{t, c, c.Nodes()[0], filepath.Join(dir, "nodeagent")}
	// the signer of cluster-info takes seconds to start, and must be done before tests with short
	// timeouts
	for !strings.Contains(m.kubectl("get", "configmap", "-n", "kube-public", "cluster-info", "-o", "jsonpath={.data}"), "jws-kubeconfig-") {
		time.Sleep(100 * time.Millisecond)
	}
	return m
}

// run joins with the arguments given and returns output and exit code.
func (m *machine) run(stdin string, args ...string) (out string, code int) {
	m.t.Helper()
	return m.exec(stdin, append([]string{"join"}, args...)...)
}

// verb runs another verb of nodeagent.
func (m *machine) verb(name string, args ...string) (out string, code int) {
	m.t.Helper()
	return m.exec("", append([]string{name}, args...)...)
}

func (m *machine) exec(stdin string, args ...string) (out string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := m.node.Command(ctx, m.program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		m.t.Fatalf("running %s: %v", args[0], err)
	}
	m.t.Logf("%s: exit %d\n%s", strings.ReplaceAll(strings.Join(args, " "), m.c.Token()[7:], "****"), code, b)
	return string(b), code
}

// good returns arguments that work.
func (m *machine) good() []string {
	return []string{m.c.Server(), "--token", m.c.Token(), "--discovery-token-ca-cert-hash", m.c.CAHash(), "--no-start"}
}

// forget removes the identity from the machine, like a new disk. The bed's own files stay.
func (m *machine) forget() {
	m.t.Helper()
	for _, p := range []string{"/etc/kubernetes", "/var/lib/kubelet", "/etc/nodeagent"} {
		entries, err := os.ReadDir(m.node.Path(p))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Name() == filepath.Base(bed.NodeSettingsFile) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(m.node.Path(p), e.Name())); err != nil {
				m.t.Fatalf("forgetting the identity: %v", err)
			}
		}
	}
}

func (m *machine) kubectl(args ...string) string {
	m.t.Helper()
	out, err := m.c.Kubectl(m.t.Context(), args...)
	if err != nil {
		m.t.Fatalf("kubectl %v: %v", args, err)
	}
	return out
}

const identity = "/etc/kubernetes/kubelet.conf"

func (m *machine) joined() bool {
	_, err := os.Stat(m.node.Path(identity))
	return err == nil
}

// TestJoin: a token becomes a working identity; joining again changes nothing.
func TestJoin(t *testing.T) {
	m := newMachine(t)
	dry, code := m.run("", append(m.good(), "--dry-run")...)
	if code != 0 || !strings.Contains(dry, "certificatesigningrequests") || m.joined() {
		t.Fatalf("dry run: exit %d, joined %v", code, m.joined())
	}
	out, code := m.run("", m.good()...)
	if code != 0 || !m.joined() {
		t.Fatalf("joining: exit %d", code)
	}
	if strings.Contains(out, m.c.Token()[7:]) {
		t.Error("the output holds the token's secret")
	}
	m.checkFiles()
	whoami, err := m.node.Output(t.Context(), "kubectl", "--kubeconfig", identity, "auth", "whoami", "-o", "json")
	if err != nil || !strings.Contains(whoami, "system:node:"+m.node.Name) || !strings.Contains(whoami, "system:nodes") {
		t.Errorf("identity: %v %s", err, whoami)
	}
	settings, err := os.ReadFile(m.node.Path("/etc/nodeagent/00-cluster.yaml"))
	if err != nil || !strings.Contains(string(settings), bed.DNSServiceIP) || !strings.Contains(string(settings), bed.PodNetwork) {
		t.Errorf("settings: %v\n%s", err, settings)
	}
	if out, err := m.node.Output(t.Context(), m.program, "config", "check", "--config", "/etc/nodeagent"); err != nil {
		t.Errorf("the settings that join wrote are not valid: %v %s", err, out)
	}
	if out, code := m.run("", m.good()...); code != 0 || !strings.Contains(out, "already") {
		t.Errorf("joining again: exit %d, want nothing to do", code)
	}
	if out, code := m.run("", m.c.Server(), "--no-start"); code != 0 || !strings.Contains(out, "already") {
		t.Errorf("joining again without token: exit %d, want nothing to do", code)
	}
}

// checkFiles checks that only root can read secrets, and that kubelet's link leads to the
// certificate.
func (m *machine) checkFiles() {
	m.t.Helper()
	for path, mode := range map[string]os.FileMode{
		identity: 0o600, "/var/lib/kubelet/pki": 0o700, "/etc/kubernetes/pki/ca.crt": 0o644,
		"/var/lib/kubelet/pki/kubelet-client-current.pem": 0o600,
	} {
		info, err := os.Stat(m.node.Path(path))
		if err != nil {
			m.t.Errorf("%s: %v", path, err)
			continue
		}
		if info.Mode().Perm() != mode {
			m.t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), mode)
		}
	}
	for _, dir := range []string{"/etc/kubernetes", "/var/lib/kubelet", "/etc/nodeagent", "/etc/default"} {
		err := filepath.WalkDir(m.node.Path(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Type()&os.ModeSymlink != 0 {
				return err
			}
			data, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(data), m.c.Token()[7:]) {
				m.t.Errorf("%s holds the token's secret", path)
			}
			if strings.HasSuffix(path, ".pending") || strings.HasPrefix(filepath.Base(path), ".") {
				m.t.Errorf("%s was left behind", path)
			}
			return nil
		})
		if err != nil {
			m.t.Errorf("walking %s: %v", dir, err)
		}
	}
}

// TestRefused: every wrong input has its exit code and says what to do next, and leaves no
// identity.
func TestRefused(t *testing.T) {
	m := newMachine(t)
	token, hash := m.c.Token(), m.c.CAHash()
	otherHash := "sha256:" + strings.Repeat("ab", 32)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"malformed token", []string{m.c.Server(), "--token", "abc", "--discovery-token-ca-cert-hash", hash}, 13, "kubeadm token create"},
		{"no token", []string{m.c.Server(), "--discovery-token-ca-cert-hash", hash}, 13, "kubeadm token create"},
		{"unknown token", []string{m.c.Server(), "--token", "zzzzzz.0123456789abcdef", "--discovery-token-ca-cert-hash", hash}, 13, "kubeadm token create"},
		{"wrong secret", []string{m.c.Server(), "--token", token[:7] + "0123456789abcdef", "--discovery-token-ca-cert-hash", hash}, 13, "second half is wrong"},
		{"wrong hash", []string{m.c.Server(), "--token", token, "--discovery-token-ca-cert-hash", otherHash}, 12, hash},
		{"malformed hash", []string{m.c.Server(), "--token", token, "--discovery-token-ca-cert-hash", "abc"}, 12, "sha256:"},
		{"no hash", []string{m.c.Server(), "--token", token}, 12, hash},
		{"nothing listens", []string{"192.168.77.1:1", "--token", token, "--discovery-token-ca-cert-hash", hash, "--timeout", "3s"}, 11, "curl"},
		{"no containerd", append([]string{"--containerd-address", "/nowhere"}, m.good()...), 10, "--ignore containerd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := m.run("", append(c.args, "--no-start")...)
			if code != c.code || !strings.Contains(out, c.says) || !strings.Contains(out, "next: ") {
				t.Errorf("exit %d, want %d; want it to say %q", code, c.code, c.says)
			}
			if m.joined() {
				t.Error("an identity was made")
			}
		})
	}
	if _, code := m.run("", m.good()...); code != 0 {
		t.Errorf("joining after all that: exit %d", code)
	}
}

const expiring = `
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-expire, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: expire
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: "true"
  usage-bootstrap-signing: "true"
  auth-extra-groups: system:bootstrappers:kubeadm:default-node-token
  expiration: `

// TestExpiredToken: a token that was valid a moment ago is refused.
func TestExpiredToken(t *testing.T) {
	m := newMachine(t)
	signed := func() bool {
		return strings.Contains(m.kubectl("get", "configmap", "-n", "kube-public", "cluster-info", "-o", "jsonpath={.data}"), "jws-kubeconfig-expire")
	}
	if err := m.c.Apply(t.Context(), expiring+time.Now().Add(15*time.Second).UTC().Format(time.RFC3339)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		for deadline := time.Now().Add(2 * time.Minute); signed() != want; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the token's signature is there: %v", signed())
			}
		}
	}
	out, code := m.run("", m.c.Server(), "--token", "expire.0123456789abcdef", "--discovery-token-ca-cert-hash", m.c.CAHash(), "--no-start")
	if code != 13 || !strings.Contains(out, "has expired") || m.joined() {
		t.Errorf("exit %d, joined %v", code, m.joined())
	}
	if _, code := m.run("", m.good()...); code != 0 {
		t.Errorf("with another token: exit %d", code)
	}
}

// TestForms: the forms in which address and token can be given.
func TestForms(t *testing.T) {
	m := newMachine(t)
	pasted := "kubeadm join " + m.c.Server() + " --token " + m.c.Token() + " \\\n\t--discovery-token-ca-cert-hash " + m.c.CAHash() + " "
	server, hash := m.c.Server(), []string{"--discovery-token-ca-cert-hash", m.c.CAHash()}
	for _, c := range []struct {
		name, stdin string
		args        []string
	}{
		{"pasted as one", "", []string{pasted, "--no-start"}},
		{"pasted as many", "", append(strings.Fields(strings.ReplaceAll(pasted, "\\", "")), "--no-start")},
		{"standard input", m.c.Token() + "\n", append([]string{server, "--token-file", "-", "--no-start"}, hash...)},
		{"several servers, several hashes", "", append([]string{
			"192.168.77.1:1," + server, "--token", m.c.Token(), "--no-start",
			"--discovery-token-ca-cert-hash", "sha256:" + strings.Repeat("00", 32),
		}, hash...)},
		{"unpinned, asked for", "", []string{server, "--token", m.c.Token(), "--discovery-token-unsafe-skip-ca-verification", "--no-start"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.forget()
			if _, code := m.run(c.stdin, c.args...); code != 0 || !m.joined() {
				t.Errorf("exit %d", code)
			}
		})
	}
	t.Run("kubeconfig file", func(t *testing.T) {
		m.forget()
		text, err := os.ReadFile(m.c.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		// address and CA are trusted, the credentials are the token's
		anonymous := regexp.MustCompile(`(?m)^\s+client-(certificate|key)-data: .*$`).ReplaceAllString(string(text), "")
		if err := m.node.WriteFile("/root/discovery.conf", []byte(anonymous), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, code := m.run("", "--discovery-file", "/root/discovery.conf", "--token", m.c.Token(), "--no-start"); code != 0 || !m.joined() {
			t.Errorf("exit %d", code)
		}
	})
}

// TestApproval: a join names the request that nobody approves, and a later join uses the same key;
// a denied request is explained, and the next join makes a new one.
func TestApproval(t *testing.T) {
	m := newMachine(t)
	binding := m.kubectl("get", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap", "-o", "json")
	m.kubectl("delete", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap")
	// On a busy machine a join may need longer to get as far as its request.
	pending := func() (out string, code int) {
		for _, limit := range []string{"4s", "30s"} {
			if out, code = m.run("", append(m.good(), "--timeout", limit)...); code == 15 {
				break
			}
		}
		return out, code
	}
	out, code := pending()
	name := regexp.MustCompile(`nodeagent-csr-[0-9a-f]+`).FindString(out)
	if code != 15 || name == "" || !strings.Contains(out, "kubectl certificate approve "+name) || m.joined() {
		t.Fatalf("pending: exit %d, request %q", code, name)
	}
	m.kubectl("certificate", "approve", name)
	if out, code := m.run("", m.good()...); code != 0 || !strings.Contains(out, name) {
		t.Errorf("after approval: exit %d, want the same request to be used", code)
	}
	m.forget()
	pending()
	denied := lastRequest(m)
	if denied == name {
		t.Fatal("a new key has the old request")
	}
	m.kubectl("certificate", "deny", denied)
	if out, code := m.run("", m.good()...); code != 15 || !strings.Contains(out, "Denied") {
		t.Errorf("denied: exit %d", code)
	}
	if err := m.c.Apply(t.Context(), stripped(t, binding)); err != nil {
		t.Fatal(err)
	}
	if _, code := m.run("", m.good()...); code != 0 {
		t.Errorf("after the binding is back: exit %d", code)
	}
}

func lastRequest(m *machine) string {
	lines := strings.Fields(m.kubectl("get", "csr", "--sort-by=.metadata.creationTimestamp", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(lines) == 0 {
		m.t.Fatal("there is no certificate request")
	}
	return lines[len(lines)-1]
}

// stripped removes from an object what the server has added.
func stripped(t *testing.T, object string) string {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(object), &o); err != nil {
		t.Fatal(err)
	}
	o["metadata"] = map[string]any{"name": o["metadata"].(map[string]any)["name"]}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCluster: rights that the cluster must grant, and a node name that is taken.
func TestCluster(t *testing.T) {
	m := newMachine(t)
	binding := m.kubectl("get", "clusterrolebinding", "nodeagent:node-proxier", "-o", "json")
	m.kubectl("delete", "clusterrolebinding", "nodeagent:node-proxier")
	if out, code := m.run("", m.good()...); code != 18 || !strings.Contains(out, "system:node-proxier") {
		t.Errorf("no right to EndpointSlices: exit %d", code)
	}
	if err := m.c.Apply(t.Context(), stripped(t, binding)); err != nil {
		t.Fatal(err)
	}
	if out, code := m.run("", append(m.good(), "-o", "json")...); code != 0 || !strings.Contains(out, `"joined":true`) {
		t.Errorf("with the right: exit %d", code)
	}
	m.forget()
	node := `{"apiVersion":"v1","kind":"Node","metadata":{"name":"` + m.node.Name + `"}}`
	if err := m.c.Apply(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	m.kubectl("patch", "node", m.node.Name, "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test","message":"test"}]}}`)
	if _, code := m.run("", m.good()...); code != 16 || m.joined() {
		t.Errorf("name taken: exit %d", code)
	}
	if _, code := m.run("", append(m.good(), "--replace")...); code != 0 {
		t.Errorf("name taken over: exit %d", code)
	}
}
