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

// calledAsKubelet reports whether the program was started as kubelet: kubeadm's unit starts
// /usr/bin/kubelet.
func calledAsKubelet(arg0 string) bool { return filepath.Base(arg0) == "kubelet" }

// kubeletCommand is `nodeagent run` with kubelet's flags besides its own.
func kubeletCommand() *cobra.Command {
	var flags config.Flags
	var configDir, printVersion string
	c := &cobra.Command{
		Use:   "kubelet",
		Short: "nodeagent, called as kubelet",
		Long: `nodeagent, called as kubelet: "nodeagent run" with kubelet's flags. A flag for which KubeletConfiguration has a field
sets that field. Flags without effect here are accepted with a warning in the log; unknown ones are an error. Flags of nodeagent
run are accepted, too.`,
		Example:           `  kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /etc/kubernetes/kubelet.conf --seccomp-default`,
		Args:              noArguments,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	c.SetFlagErrorFunc(wrongFlag)
	c.SetUsageFunc(usage)
	fs := c.Flags()
	flags.AddFlags(fs)
	fs.StringVar(&configDir, "config-dir", "", "folder of drop-in configuration files, read after --config")
	fs.StringVar(&printVersion, "version", "", "print the version and exit")
	fs.Lookup("version").NoOptDefVal = "true"
	flags.AddKubeletFlags(fs)
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

// kubeletArgs rewrites -v=4 and -v 4 as --v, since pflag knows no short flag v.
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

// ignored is a flag of kubelet that has no field in its configuration and no effect here.
type ignored struct{ isBool bool }

func (*ignored) String() string     { return "" }
func (*ignored) Set(string) error   { return nil }
func (i *ignored) Type() string     { return map[bool]string{true: "bool", false: "string"}[i.isBool] }
func (i *ignored) IsBoolFlag() bool { return i.isBool }

// addIgnored defines the rest of kubelet's flags (1.36, cmd/kubelet/app/options). None of them
// makes a node safer: one that did would have to be an error.
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

// ignoredFlags are the given flags without effect.
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
enable-load-reader exit-on-lock-contention experimental-allocatable-ignore-eviction log-cadvisor-usage storage-driver-secure`

const ignoredValues = `
application-metrics-count-limit boot-id-file container-hints containerd event-storage-age-limit event-storage-event-limit
experimental-mounter-path global-housekeeping-interval housekeeping-interval image-credential-provider-bin-dir
image-credential-provider-config lock-file machine-id-file maximum-dead-containers maximum-dead-containers-per-container
minimum-container-ttl-duration pod-infra-container-image runtime-cgroups storage-driver-buffer-duration storage-driver-db
storage-driver-host storage-driver-password storage-driver-table storage-driver-user`

// ignoredWhy says what happens instead of a flag without effect.
func ignoredWhy(flag string) string {
	switch name := strings.TrimPrefix(flag, "--"); {
	case strings.HasPrefix(name, "image-credential-provider"):
		return "credential provider plugins are not implemented yet: images of a registry that needs them are pulled with the pods' own pull secrets only"
	case name == "pod-infra-container-image":
		return "there is no pause container"
	case strings.HasPrefix(name, "maximum-dead"), name == "minimum-container-ttl-duration":
		return "one ended attempt of each container is kept"
	case name == "lock-file", name == "exit-on-lock-contention":
		return "systemd starts the unit only once"
	case name == "runtime-cgroups":
		return "containerd's unit sets its cgroup"
	}
	return "it is a flag of cAdvisor or of tests, which nodeagent does not have"
}
