package bootstrap

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
)

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestPlan compares the steps for an observed machine and a configuration with golden files.
func TestPlan(t *testing.T) {
	t.Parallel()
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var observed Observed
		var want Config
		for name, into := range map[string]any{"observed.yaml": &observed, "config.yaml": &want} {
			if err := yaml.UnmarshalStrict(files[name], into); err != nil {
				t.Fatalf("reading %s: %v", name, err)
			}
		}
		var b strings.Builder
		for _, s := range Plan(observed, want, testNow) {
			fmt.Fprintln(&b, s)
		}
		if b.Len() == 0 {
			b.WriteString("nothing to do\n")
		}
		return map[string][]byte{"want": []byte(b.String())}
	})
}

// everyMachine yields all combinations of what can be on disk, valid and invalid.
func everyMachine(yield func(Observed)) {
	pin := Pin{1}
	good := Cert{
		CommonName: "system:node:n1", Organizations: []string{"system:nodes"}, NotBefore: testNow.Add(-time.Hour),
		NotAfter: testNow.Add(time.Hour), Paired: true, Issued: true,
	}
	expired, foreign, broken := good, good, good
	expired.NotAfter, foreign.CommonName, broken.Paired = testNow, "system:node:n2", false
	for bits := range 1 << 7 {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		for _, cert := range []Cert{{}, good, expired, foreign, broken} {
			h := Observed{Cert: cert, PendingKey: bit(0), Active: bit(1), Enabled: bit(2), Ready: bit(1) && bit(3), Settings: bit(4), BootstrapKubeconfig: bit(5)}
			if bit(6) {
				h.CAPins, h.KubeconfigServers, h.KubeconfigCert, h.KubeconfigTrust = []Pin{pin}, []string{"h:1"}, "/cert", !bit(4)
			}
			yield(h)
		}
	}
}

// carriedOut is what is observed after the steps.
func carriedOut(h Observed, c Config, steps []Step) Observed {
	for _, s := range steps {
		switch s.Action {
		case WriteCA:
			h.CAPins, h.KubeconfigTrust = c.Pins, false
		case MakeKey:
			h.PendingKey = true
		case RequestCert:
			h.PendingKey = false
			h.Cert = Cert{
				CommonName: "system:node:" + c.NodeName, Organizations: []string{"system:nodes"}, NotBefore: testNow.Add(-time.Minute),
				NotAfter: testNow.Add(time.Hour), Paired: true, Issued: len(h.CAPins) > 0,
			}
		case WriteKubeconfig:
			h.KubeconfigServers, h.KubeconfigCert, h.KubeconfigTrust = c.Servers, c.Files.Cert, true
		case DropBootstrap:
			h.BootstrapKubeconfig = false
		case ReadSettings:
			h.Settings = true
		case WriteEnv:
			h.Env = c.Env
		case StartService:
			h.Active, h.Enabled = true, true
		case AwaitReady:
			h.Ready = true
		}
	}
	return h
}

// TestPlanConverges: from every state, and after a stop at any step, the next plan completes the
// join; no plan uses a server before it is verified; none replaces a valid identity.
func TestPlanConverges(t *testing.T) {
	t.Parallel()
	c := Config{
		Servers: []string{"h:1"}, NodeName: "n1", Pins: []Pin{{1}}, Env: "x", Unit: "u", Start: true, Wait: true, Proxy: true,
		Files: Files{CA: "/ca", Kubeconfig: "/kc", BootstrapKubeconfig: "/bk", Key: "/key", Cert: "/cert", Settings: "/s", Env: "/e"},
	}
	everyMachine(func(h Observed) {
		steps := Plan(h, c, testNow)
		for stop := 0; stop <= len(steps); stop++ {
			half := carriedOut(h, c, steps[:stop])
			rest := Plan(half, c, testNow)
			if left := Plan(carriedOut(half, c, rest), c, testNow); len(left) > 0 {
				t.Fatalf("from %+v, stopped after %d of %v, then %v: still %v", h, stop, steps, rest, left)
			}
		}
		proved := false
		for i, s := range steps {
			if i > 0 && s.Phase < steps[i-1].Phase {
				t.Fatalf("phase %d after %d in %v", s.Phase, steps[i-1].Phase, steps)
			}
			proved = proved || s.Action == VerifyInfo || s.Action == TrustFile
			if (s.Action == RequestCert || s.Action == CheckName || s.Action == WriteCA) && !proved {
				t.Fatalf("%s before the cluster is proved: %v", s.Action, steps)
			}
			if s.Why == "" || s.String() == "" {
				t.Fatalf("step %+v says no why", s)
			}
		}
		if h.Cert.fault("n1", testNow) == "" && len(h.CAPins) > 0 && proved {
			t.Fatalf("a good identity is thrown away: %v", steps)
		}
	})
}
