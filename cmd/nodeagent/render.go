package main

import (
	"github.com/spf13/cobra"
)

func renderCommand() *cobra.Command {
	return &cobra.Command{Use: "render", Short: "Print what would be done for given objects"}
}
