package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/config"
)

const reference = "../../docs/configuration.md"

// TestReference compares docs/configuration.md with the flags that set no field: those of the
// verbs, and those of kubelet that have no effect.
func TestReference(t *testing.T) {
	var ofRun config.Flags
	run := pflag.NewFlagSet("run", pflag.ContinueOnError)
	ofRun.AddFlags(run)
	var verbs, dropped strings.Builder
	verbs.WriteString("| verb | flag | default | effect |\n|---|---|---|---|\n")
	everyCommand(rootCommand(), func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" || run.Lookup(f.Name) != nil {
				return
			}
			def := f.DefValue
			if def == "" || def == "[]" {
				def = "–"
			} else {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&verbs, "| `%s` | `--%s` | %s | %s |\n", strings.TrimPrefix(c.CommandPath(), "nodeagent "), f.Name, def,
				strings.ReplaceAll(f.Usage, "|", `\|`))
		})
	})
	golden.Section(t, reference, "verbs", verbs.String())

	dropped.WriteString("| flag | what happens instead |\n|---|---|\n")
	kubeletCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := f.Value.(*ignored); ok {
			fmt.Fprintf(&dropped, "| `--%s` | %s |\n", f.Name, ignoredWhy(f.Name))
		}
	})
	golden.Section(t, reference, "flags without effect", dropped.String())
}
