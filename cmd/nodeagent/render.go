package main

import (
	"github.com/spf13/cobra"
)

func renderCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "render",
		Short: "Print what the agent would do for given objects",
		Long: `Print what would be done for objects in a file, by the code that does it: no cluster, no containerd, no kernel and no
rights are needed, and nothing is done. The same input gives the same output on every machine, so that it can be compared.`,
		Example: `  kubectl get pod web -o yaml | nodeagent render pod -f -
  kubectl get services,endpointslices,nodes -A -o yaml | nodeagent render services -f - --node n1`,
	}
	c.AddCommand(renderPodCommand(), renderServicesCommand())
	return c
}
