package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/hostcheck"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// joinFlags are the flags of `nodeagent join`. It also accepts those of run and passes them to the
// daemon.
type joinFlags struct {
	config                          config.Flags
	token, tokenFile, discoveryFile string
	hashes                          []string
	ignore                          checks
	unpinned, replace, rejoin       bool
	noStart, dryRun                 bool
	timeout                         time.Duration
	output                          choice
	settingsFile, envFile, unit     string
}

func joinCommand() *cobra.Command {
	f := joinFlags{ignore: checks{known: append(strings.Split(checkNames, ", "), "proxy-rbac", "all")}, output: oneOf("text", "json")}
	c := &cobra.Command{
		Use:   "join SERVER[,SERVER…] --token TOKEN --discovery-token-ca-cert-hash sha256:HASH",
		Short: "Make this machine a node of a cluster",
		Long: `Make this machine a node of a cluster: verify the cluster, get a certificate, start the daemon, wait until the node is Ready.
The whole line that "kubeadm token create --print-join-command" prints can be pasted after "nodeagent join".
The token may also come from --token-file (- for standard input) or the environment variable NODEAGENT_TOKEN.
Run again after an interruption, it goes on where it stopped.`,
		Example: `  nodeagent join 10.0.0.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:…
  nodeagent join 10.0.0.10,10.0.0.11,10.0.0.12 --token-file - --discovery-token-ca-cert-hash sha256:… <token
  nodeagent join --discovery-file cluster-info.yaml --token abcdef.0123456789abcdef
  nodeagent join 10.0.0.10 --dry-run --token … --node-name n1     # what join would do
  nodeagent join 10.0.0.10 --token … --ignore swap,ports --node-ip 10.0.0.5`,
		Args: serversArgument,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	fs := c.Flags()
	fs.StringVar(&f.token, "token", "", "bootstrap token, abcdef.0123456789abcdef")
	fs.StringVar(&f.tokenFile, "token-file", "", "file of the token, - for standard input")
	fs.StringSliceVar(&f.hashes, "discovery-token-ca-cert-hash", nil, "hash of the cluster's CA, sha256:…; given several times: any of them")
	fs.BoolVar(&f.unpinned, "discovery-token-unsafe-skip-ca-verification", false, "trust any server that knows the token")
	fs.StringVar(&f.discoveryFile, "discovery-file", "", "kubeconfig to trust for address and CA, instead of token and hash")
	group(fs, "Whom to trust", "token", "token-file", "discovery-token-ca-cert-hash", "discovery-token-unsafe-skip-ca-verification", "discovery-file")
	fs.Var(&f.ignore, "ignore", "checks to skip, by name: "+checkNames+", proxy-rbac; or all")
	fs.BoolVar(&f.replace, "replace", false, "take over the name of a Ready node")
	fs.BoolVar(&f.rejoin, "rejoin", false, "get a new certificate even if there is a valid one")
	fs.BoolVar(&f.noStart, "no-start", false, "only write the identity; start nothing")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print the steps that are needed; change nothing")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Minute, "longest duration of the whole join")
	fs.VarP(&f.output, "output", "o", "output format")
	fs.StringVar(&f.settingsFile, "settings-file", "/etc/nodeagent/00-cluster.yaml", "file for the cluster's settings; empty: none")
	fs.StringVar(&f.envFile, "env-file", "/etc/default/nodeagent", "file for the daemon's flags; empty: none")
	fs.StringVar(&f.unit, "unit", "nodeagent.service", "systemd unit of the daemon")
	group(fs, "What to do", "ignore", "replace", "rejoin", "no-start", "dry-run", "timeout", "output")
	group(fs, "What to write and start", "settings-file", "env-file", "unit")
	daemonFlags(c, &f.config, "config", "hostname-override", "node-ip", "node-labels", "register-with-taints", "containerd-address", "proxier")
	fs.SetNormalizeFunc(joinAliases)
	return c
}

// joinAliases maps kubeadm's flags, and short ones, to nodeagent's.
func joinAliases(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	alias := map[string]string{
		"ca-cert-hash": "discovery-token-ca-cert-hash", "insecure-skip-ca-verification": "discovery-token-unsafe-skip-ca-verification",
		"node-name": "hostname-override", "cri-socket": "container-runtime-endpoint", "ignore-preflight-errors": "ignore",
		"discovery-token": "token", "tls-bootstrap-token": "token",
	}
	if to, ok := alias[name]; ok {
		name = to
	}
	return pflag.NormalizedName(name)
}

func (f *joinFlags) run(c *cobra.Command, args []string) error {
	if f.timeout <= 0 {
		return usageError{fmt.Errorf("--timeout must be over 0, is %s", f.timeout)}
	}
	cfg, err := loadToJoin(&f.config)
	if err != nil {
		return err
	}
	jc, err := f.joinConfig(cfg, args)
	if err != nil {
		return err
	}
	out := &reporter{w: c.OutOrStdout(), json: f.output.value == "json"}
	jc.Report = out.event
	j, err := bootstrap.NewJoiner(jc, cfg.Identity.CertDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), f.timeout)
	defer cancel()
	if f.dryRun {
		steps, err := j.Plan(ctx)
		if err != nil {
			return err
		}
		return out.plan(steps)
	}
	start := time.Now()
	joined, err := j.Run(ctx)
	return out.result(cfg.Node.Name, joined, time.Since(start), err)
}

func (f *joinFlags) joinConfig(cfg config.Config, args []string) (bootstrap.JoinConfig, error) {
	token, err := f.readToken()
	if err != nil {
		return bootstrap.JoinConfig{}, err
	}
	plan := bootstrap.Config{
		NodeName: cfg.Node.Name, Unpinned: f.unpinned, Discovery: f.discoveryFile, Renew: f.rejoin,
		Files: bootstrap.Files{
			CA: cfg.Identity.ClusterCA, Kubeconfig: cfg.Identity.Kubeconfig,
			BootstrapKubeconfig: cfg.Identity.BootstrapKubeconfig, Settings: f.settingsFile,
		},
		Proxy: cfg.Proxy.Mode != config.ProxyOff, Start: !f.noStart, Wait: !f.noStart, Unit: f.unit,
	}
	if len(args) > 0 {
		if plan.Servers, err = bootstrap.ParseServers(args[0]); err != nil {
			return bootstrap.JoinConfig{}, err
		}
	} else if f.discoveryFile == "" {
		return bootstrap.JoinConfig{}, usageError{errors.New("join needs the API server's address, nodeagent join HOST:6443 --token …, or --discovery-file (nodeagent join --help)")}
	}
	for _, h := range f.hashes {
		pin, err := bootstrap.ParsePin(h)
		if err != nil {
			return bootstrap.JoinConfig{}, err
		}
		plan.Pins = append(plan.Pins, pin)
	}
	if !f.noStart {
		plan.Files.Env = f.envFile
		if plan.Env, err = bootstrap.EnvText(f.config.Args()); err != nil {
			return bootstrap.JoinConfig{}, usageError{err}
		}
	}
	return bootstrap.JoinConfig{
		Plan: plan, Token: token, Ignore: f.ignore.names, Replace: f.replace, ReadyFor: f.timeout, ApproveFor: f.timeout,
		Host:    hostcheck.New(&cfg),
		Service: unit.New(f.unit), UserAgent: version.UserAgent(), Minor: version.Minor, Now: time.Now,
	}, nil
}

// readToken takes the token from the first of flag, file or standard input, and environment that
// has one.
func (f *joinFlags) readToken() (bootstrap.Token, error) {
	text := f.token
	switch {
	case text != "":
	case f.tokenFile == "-":
		data, err := io.ReadAll(io.LimitReader(os.Stdin, 4096))
		if err != nil {
			return bootstrap.Token{}, fmt.Errorf("reading the token from standard input: %w", err)
		}
		text = string(data)
	case f.tokenFile != "":
		data, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return bootstrap.Token{}, &bootstrap.Error{
				Code: bootstrap.CodeToken, Err: fmt.Errorf("reading the token: %w", err), Next: "check --token-file, or give --token",
			}
		}
		text = string(data)
	default:
		text = os.Getenv("NODEAGENT_TOKEN")
	}
	if strings.TrimSpace(text) == "" {
		return bootstrap.Token{}, nil // not needed if there is a certificate already
	}
	return bootstrap.ParseToken(text)
}
