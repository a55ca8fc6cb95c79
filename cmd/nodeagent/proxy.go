package main

import (
	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
)

func proxyCommand() *cobra.Command {
	c := &cobra.Command{Use: "proxy", Short: "Manage this machine's rules for Services", Example: "  nodeagent proxy cleanup"}
	var flags config.Flags
	cleanup := &cobra.Command{
		Use:   "cleanup [flags of run]",
		Short: "Remove the rules for Services, including those of a kube-proxy",
		Long: `Remove the rules for Services from this machine, including those of a kube-proxy in iptables, nftables or IPVS. Rules of other
programs stay. Connections through IPVS end. Stop the daemon first, since it would write its rules again.`,
		Example: "  systemctl stop nodeagent && nodeagent proxy cleanup",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, _, err := config.Load(&flags)
			if err != nil {
				return err
			}
			log := newLogger(loaded.Log)
			return modes.Cleanup(c.Context(), modes.Config{Proxy: loaded.Proxy, Log: log}, func(what string) { log.Info("Removed " + what) })
		},
	}
	daemonFlags(cleanup, &flags, "config")
	c.AddCommand(cleanup)
	return c
}
