package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// calledAsKubelet says whether the program stands where a kubelet is expected: kubeadm's unit starts /usr/bin/kubelet.
func calledAsKubelet(arg0 string) bool { return filepath.Base(arg0) == "kubelet" }

// kubeletCommand is `nodeagent run` with kubelet's command line: its flags, and nothing that is unknown to both.
func kubeletCommand() *cobra.Command {
	var flags config.Flags
	var configDir, printVersion string
	c := &cobra.Command{
		Use:   "kubelet",
		Short: "nodeagent, called as kubelet",
		Long: `nodeagent, called as kubelet: "nodeagent run" with kubelet's flags. Flags of kubelet that have no effect here are
accepted and warned about; unknown ones are refused. Flags of nodeagent run are taken too.`,
		Args:              cobra.NoArgs,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	fs := c.Flags()
	flags.AddFlags(fs)
	fs.StringVar(&configDir, "config-dir", "", "folder of drop-in configuration files, read after --config")
	fs.StringVar(&printVersion, "version", "", "print the version and end")
	fs.Lookup("version").NoOptDefVal = "true"
	addIgnored(fs)
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-")) // as kubelet
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		if printVersion != "" && printVersion != "false" {
			_, err := fmt.Fprintln(c.OutOrStdout(), "Kubernetes", version.Kubernetes())
			return err
		}
		if configDir != "" {
			if err := c.Flags().Set("config", configDir); err != nil {
				return err
			}
		}
		return runDaemon(c.Context(), &flags, ignoredFlags(fs))
	}
	return c
}

// kubeletArgs rewrites -v=4 and -v 4, which pflag would take for something else.
func kubeletArgs(args []string) []string {
	out := make([]string, 0, len(args))
	for _, a := range args {
		if a == "-v" || strings.HasPrefix(a, "-v=") {
			a = "-" + a
		}
		out = append(out, a)
	}
	return out
}

// ignored is a flag of kubelet's that has no effect here.
type ignored struct{ isBool bool }

func (*ignored) String() string     { return "" }
func (*ignored) Set(string) error   { return nil }
func (i *ignored) Type() string     { return map[bool]string{true: "bool", false: "string"}[i.isBool] }
func (i *ignored) IsBoolFlag() bool { return i.isBool }

// addIgnored defines what is left of kubelet's flags (1.36, cmd/kubelet/app/options).
func addIgnored(fs *pflag.FlagSet) {
	for _, kind := range []struct {
		isBool bool
		names  string
	}{
		{true, ignoredBools}, {false, ignoredValues},
	} {
		for _, name := range strings.Fields(kind.names) {
			f := fs.VarPF(&ignored{kind.isBool}, name, "", "no effect here")
			f.Hidden = true
			if kind.isBool {
				f.NoOptDefVal = "true"
			}
		}
	}
}

// ignoredFlags are those that were given.
func ignoredFlags(fs *pflag.FlagSet) []string {
	var given []string
	fs.Visit(func(f *pflag.Flag) {
		if _, ok := f.Value.(*ignored); ok {
			given = append(given, "--"+f.Name)
		}
	})
	return given
}

const ignoredBools = `
anonymous-auth authentication-token-webhook cgroups-per-qos contention-profiling cpu-cfs-quota enable-controller-attach-detach
enable-debugging-handlers enable-load-reader enable-server exit-on-lock-contention experimental-allocatable-ignore-eviction kernel-memcg-notification
local-storage-capacity-isolation log-cadvisor-usage make-iptables-util-chains protect-kernel-defaults runonce seccomp-default
serialize-image-pulls storage-driver-secure`

const ignoredValues = `
allowed-unsafe-sysctls application-metrics-count-limit authentication-token-webhook-cache-ttl authorization-mode
authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl boot-id-file cloud-provider container-hints
container-log-max-files container-log-max-size containerd cpu-cfs-quota-period cpu-manager-policy cpu-manager-policy-options
cpu-manager-reconcile-period enforce-node-allocatable event-burst event-qps event-storage-age-limit event-storage-event-limit eviction-hard
eviction-max-pod-grace-period eviction-minimum-reclaim eviction-pressure-transition-period eviction-soft eviction-soft-grace-period
experimental-mounter-path feature-gates file-check-frequency global-housekeeping-interval hairpin-mode housekeeping-interval http-check-frequency
image-credential-provider-bin-dir image-credential-provider-config image-gc-high-threshold image-gc-low-threshold image-service-endpoint
kube-api-burst kube-api-content-type kube-api-qps kube-reserved kube-reserved-cgroup kubelet-cgroups lock-file log-flush-frequency machine-id-file
manifest-url manifest-url-header max-open-files maximum-dead-containers maximum-dead-containers-per-container memory-manager-policy
minimum-container-ttl-duration minimum-image-ttl-duration node-status-max-images node-status-update-frequency oom-score-adj pod-cidr
pod-infra-container-image pod-max-pids pods-per-core qos-reserved read-only-port registry-burst registry-qps reserved-cpus reserved-memory resolv-conf
runtime-cgroups runtime-request-timeout storage-driver-buffer-duration storage-driver-db storage-driver-host storage-driver-password
storage-driver-table storage-driver-user streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved system-reserved-cgroup
tls-cipher-suites tls-min-version topology-manager-policy topology-manager-policy-options topology-manager-scope vmodule volume-plugin-dir
volume-stats-agg-period`
