package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// TestMistypedCommandLines: a mistyped command line is an error that says what is right, never
// help and exit code 0.
func TestMistypedCommandLines(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("typo.yaml", []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPod: 3\nport: 70000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"jion":                                  `did you mean "nodeagent join"?`,
		"jion 10.0.0.1 --token x":               `did you mean "nodeagent join"?`,
		"help jion":                             `did you mean "nodeagent join"?`,
		"config chek":                           `did you mean "nodeagent config check"?`,
		"help config chek":                      `did you mean "nodeagent config check"?`,
		"render pods -f x":                      `did you mean "nodeagent render pod"?`,
		"proxy clean":                           `did you mean "nodeagent proxy cleanup"?`,
		"uninstall":                             `did you mean "nodeagent reset"?`,
		"start":                                 `did you mean "nodeagent run"?`,
		"xyzzy":                                 "there are completion, config, join",
		"status now":                            `takes flags only, not "now"`,
		"run daemon":                            `takes flags only, not "daemon"`,
		"join A B":                              "comma-separated (nodeagent join A,B)",
		"preflight A B C":                       "comma-separated (nodeagent preflight A,B,C)",
		"join":                                  "join needs the API server's address",
		"join --hlep":                           "did you mean --help?",
		"run --kube-config=x":                   "did you mean --kubeconfig?",
		"join A --ignore swop":                  `did you mean "swap"?`,
		"preflight --ignore foo":                `there is no check "foo"`,
		"preflight --ignore-preflight-errors=x": `there is no check "x"`,
		"join A --timeout=-1s":                  "must be over 0",
		"run --max-pods=many":                   "must be a whole number",
		"run --register-node=perhaps":           "must be true or false",
		"config check --config nowhere.yaml":    "nowhere.yaml: cannot be read",
		"config check --config typo.yaml":       "port: must be 1 to 65535, is 70000",
		"config check --node-ip=1.2.3":          "must be an IP address",
		"render services --view all -f x":       "use rules or snapshot",
		"render services --mode ipvs -f x":      "use iptables or nftables",
		"render services --family v6 -f x":      "use IPv4 or IPv6",
	} {
		var errs bytes.Buffer
		code := execute(t.Context(), "nodeagent", strings.Fields(line), &errs)
		if code != exitUsage || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit code %d, want %d and %q in\n%s", line, code, exitUsage, want, errs.String())
		}
	}
}

// TestKubeadmCheckNames: a pasted kubeadm line can ignore checks by kubeadm's names.
func TestKubeadmCheckNames(t *testing.T) {
	c := checks{known: strings.Split(checkNames, ", ")}
	if err := c.Set("Swap,NumCPU,SystemVerification, Port-10250,FileContent--proc-sys-net-bridge-bridge-nf-call-iptables"); err != nil {
		t.Fatal(err)
	}
	if got := c.String(); got != "swap,kernel,features,cgroup,ports" {
		t.Errorf("ignored: %s", got)
	}
}

// TestConfigCheckTellsAll: unknown fields do not hide wrong values, and are an error of this verb
// by themselves.
func TestConfigCheckTellsAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	check := func(text string) (out string, err error) {
		t.Helper()
		if err := os.WriteFile(file, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		root := rootCommand()
		root.SetArgs([]string{"config", "check", "--config", file})
		root.SetOut(&b)
		err = root.ExecuteContext(t.Context())
		return b.String(), err
	}
	out, err := check("maxPod: 3\nport: 70000\n")
	if err == nil || !strings.Contains(err.Error(), "70000") || !strings.Contains(out, `maxPod is not a known field and left out: did you mean "maxPods"?`) {
		t.Errorf("%s%v", out, err)
	}
	if out, err = check("maxPod: 3\n"); err == nil || !strings.Contains(out, "maxPods") {
		t.Errorf("an unknown field is well: %s", out)
	}
	if out, err = check("maxPods: 3\nreadOnlyPort: 1\n"); err != nil || !strings.Contains(out, "ok: 1 settings") {
		t.Errorf("%s%v", out, err)
	}
}

func everyCommand(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, s := range c.Commands() {
		everyCommand(s, do)
	}
}

// TestOutputs: every verb with -o accepts its values and no other.
func TestOutputs(t *testing.T) {
	seen := 0
	everyCommand(rootCommand(), func(c *cobra.Command) {
		f := c.Flags().Lookup("output")
		if f == nil {
			return
		}
		seen++
		if f.Value.Set("yaml") == nil || f.Value.Set("JSON") != nil || f.Value.String() != "json" {
			t.Errorf("%s: -o takes anything, or not json", c.CommandPath())
		}
	})
	if seen < 5 {
		t.Errorf("only %d verbs have -o", seen)
	}
}

// TestHelp: every verb has valid examples, and shows its own flags apart from those of run.
func TestHelp(t *testing.T) {
	everyCommand(rootCommand(), func(c *cobra.Command) {
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(line, " #")
			var words []string
			for part := range strings.SplitSeq(strings.ReplaceAll(line, "&&", "|"), "|") {
				if own, ok := strings.CutPrefix(strings.TrimSpace(part), "nodeagent "); ok {
					words = strings.Fields(own)
				}
			}
			found, rest, err := rootCommand().Find(words)
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err != nil || !found.Runnable() {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			}
		}
		var b bytes.Buffer
		c.SetOut(&b)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		if c.Flags().Lookup("max-pods") != nil && c.Name() != "run" && (strings.Contains(b.String(), "--max-pods") || !strings.Contains(b.String(), "nodeagent run --help")) {
			t.Errorf("%s drowns its own flags in those of run:\n%s", c.CommandPath(), b.String())
		}
	})
	var b bytes.Buffer
	root := rootCommand()
	root.SetArgs([]string{"join", "--help"})
	root.SetOut(&b)
	if err := root.ExecuteContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	trust, ignore := strings.Index(text, "Whom to trust:\n      --token "), strings.Index(text, "--ignore CHECK")
	if trust < 0 || ignore < trust || strings.Count(text, "\n      --") > 30 {
		t.Errorf("token and hash are not what comes first:\n%s", text)
	}
	_, run, _ := strings.Cut(text, "often needed:")
	if !strings.Contains(run, "--node-ip") {
		t.Errorf("the node's own flags are not there:\n%s", text)
	}
}

// TestFlagsSayWhatTheyAre: every flag has a usage text.
func TestFlagsSayWhatTheyAre(t *testing.T) {
	everyCommand(rootCommand(), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s: no usage", c.CommandPath(), f.Name)
			}
		})
	})
}

// TestPreflightKnowsWhatItDoesNotKnow: the snapshotter of a containerd that does not answer is
// unknown.
func TestPreflightKnowsWhatItDoesNotKnow(t *testing.T) {
	var b bytes.Buffer
	root := rootCommand()
	root.SetArgs([]string{"preflight", "--containerd-address", filepath.Join(t.TempDir(), "no.sock")})
	root.SetOut(&b)
	err := root.ExecuteContext(t.Context())
	if err == nil || !strings.Contains(b.String(), "snapshotter  unknown  containerd does not answer") {
		t.Errorf("%v\n%s", err, b.String())
	}
	if strings.Contains(b.String(), "--ignore containerd,snapshotter") {
		t.Errorf("a check that was not made is to be ignored:\n%s", b.String())
	}
}

// TestLogLevels: each higher --v logs more, of klog's levels, too.
func TestLogLevels(t *testing.T) {
	for v := range 10 {
		log := newLogger(config.Log{Level: v})
		if !log.Enabled(t.Context(), slog.Level(-v)) || log.Enabled(t.Context(), slog.Level(-v-1)) {
			t.Errorf("--v=%d does not end at klog's level %d", v, v)
		}
		logClient(log, config.Log{Level: v})
		if !klog.V(klog.Level(v)).Enabled() || klog.V(klog.Level(v+1)).Enabled() {
			t.Errorf("--v=%d is not client-go's", v)
		}
	}
}
