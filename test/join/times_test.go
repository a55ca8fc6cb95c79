package join_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// joins returns how many joins to measure.
func joins(t *testing.T) int {
	t.Helper()
	text := os.Getenv("NODEAGENT_JOINS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestJoinToReady measures what TestUnderSystemd measures, but on this machine, where processes
// start at full speed and no systemd runs: the test starts the daemon in the unit's place.
func TestJoinToReady(t *testing.T) {
	m := newMachine(t)
	ctx := t.Context()
	for name, text := range map[string]string{"20-node.yaml": m.node.KubeletSettings(), "30-proxy.yaml": "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nconntrack: {maxPerCore: 0}\n"} {
		if err := m.node.WriteFile("/root/settings/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	flags := []string{"--config", "/root/settings", "--node-ip", m.node.IP.String()}
	var times []time.Duration
	for range joins(t) {
		start := time.Now()
		if out, code := m.run("", append(m.good(), flags...)...); code != 0 {
			t.Fatalf("joining: exit %d\n%s", code, out)
		}
		p, err := m.node.Start(bed.Spec{Name: "nodeagent", Path: m.program, Args: append([]string{"run", "--config", "/etc/nodeagent"}, flags...)})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.node.WaitReady(ctx, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(start))
		if err := p.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		if out, code := m.verb("reset", "--yes"); code != 0 {
			t.Fatalf("reset: exit %d\n%s", code, out)
		}
		m.kubectl("delete", "node", m.node.Name)
	}
	slices.Sort(times)
	t.Logf("join to Ready, %d times: p50 %s, all %v", len(times), times[len(times)/2], times)
}

// TestUnderSystemd joins a machine under systemd repeatedly, each time after a reset that must
// leave nothing behind, and once without its network. NODEAGENT_JOINS=10 for figures; default 1.
func TestUnderSystemd(t *testing.T) {
	bed.Require(t)
	ctx := t.Context()
	runs := joins(t)
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(ctx, "u1")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := u.InstallNodeAgent(ctx, bed.NodeAgent{}); err != nil {
		t.Fatal(err, out)
	}
	s := systemd{t, c, u}
	var times []time.Duration
	for i := range runs {
		s.leave()
		out, code := s.join("--timeout", "3m")
		said := regexp.MustCompile(`joined in (\S+)\. `).FindStringSubmatch(out)
		if code != 0 || said == nil {
			t.Fatalf("joining: exit %d\n%s", code, out)
		}
		took, err := time.ParseDuration(said[1])
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, took)
		if i == 0 || i == runs-1 {
			t.Logf("steps:\n%s", out)
		}
		if log, _ := u.Output(ctx, "journalctl", "-u", "nodeagent", "-b", "--no-pager"); strings.Contains(log, "level=ERROR") {
			t.Errorf("the agent complains:\n%s", log)
		}
	}
	slices.Sort(times)
	t.Logf("join to Ready, %d times: p50 %s, all %v", runs, times[len(times)/2], times)
	s.leave()

	// without a network the node does not become Ready: join quotes the condition, and continues
	// once the network is there
	const conf, away = "/etc/cni/net.d/10-bed.conflist", "/root/10-bed.conflist"
	s.move(conf, away)
	out, code := s.join("--ignore", "cni", "--timeout", "30s")
	if code != 19 || !strings.Contains(out, "NetworkPluginNotReady") || !strings.Contains(out, "nodeagent status") {
		t.Errorf("without a network: exit %d\n%s", code, out)
	}
	s.move(away, conf)
	if out, code = s.join("--timeout", "3m"); code != 0 {
		t.Errorf("with the network again: exit %d\n%s", code, out)
	}
}

// systemd is a machine under systemd that joins and leaves.
type systemd struct {
	t *testing.T
	c *bed.Cluster
	u *bed.UMLNode
}

// leave resets the machine, checks that nothing is left to reset, and deletes its Node.
func (s systemd) leave() {
	s.t.Helper()
	ctx := s.t.Context()
	out, err := s.u.Output(ctx, "nodeagent", "reset", "--yes")
	if err != nil || !strings.Contains(out, "stop and disable nodeagent.service") {
		s.t.Fatalf("reset: %v\n%s", err, out)
	}
	state, _ := s.u.Output(ctx, "sh", "-c", "systemctl is-active nodeagent; systemctl is-enabled nodeagent; true")
	if fields := strings.Fields(state); !slices.Equal(fields, []string{"inactive", "disabled"}) {
		s.t.Errorf("after reset the unit is %q", fields)
	}
	if out, err := s.u.Output(ctx, "nodeagent", "reset", "--yes"); err != nil || !strings.Contains(out, "nothing of nodeagent") {
		s.t.Fatalf("reset again: %v\n%s", err, out)
	}
	if out, err := s.c.Kubectl(ctx, "delete", "node", "u1"); err != nil {
		s.t.Fatal(err, out)
	}
}

func (s systemd) join(args ...string) (out string, code int) {
	s.t.Helper()
	r, err := s.u.Exec(s.t.Context(), append([]string{
		"nodeagent", "join", s.c.Server(), "--config", "/etc/nodeagent", "--node-ip", s.u.IP.String(),
		"--token", s.c.Token(), "--discovery-token-ca-cert-hash", s.c.CAHash(),
	}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Stdout + r.Stderr, r.Code
}

func (s systemd) move(from, to string) {
	s.t.Helper()
	if out, err := s.u.Output(s.t.Context(), "mv", from, to); err != nil {
		s.t.Fatal(err, out)
	}
}
