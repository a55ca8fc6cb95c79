package main

import "github.com/spf13/cobra"

// daemonCommands are the verbs of the daemon itself and those that ask it: run, status, render.
func daemonCommands() []*cobra.Command { return nil }
