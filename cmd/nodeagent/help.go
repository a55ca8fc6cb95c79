package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// group puts flags, which must be defined, under a heading.
func group(fs *pflag.FlagSet, heading string, names ...string) {
	for _, name := range names {
		// fails for an undefined flag, which TestHelp would miss
		_ = fs.SetAnnotation(name, config.FlagGroup, []string{heading})
	}
}

// daemonFlags defines the flags of run for another verb, which passes them to the daemon or reads
// the daemon's configuration with them. The verb's help shows only those in shown, and where to
// find the others.
func daemonFlags(c *cobra.Command, flags *config.Flags, shown ...string) {
	own := flagNames(c)
	flags.AddFlags(c.Flags())
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(own, f.Name) {
			heading := elsewhere
			if slices.Contains(shown, f.Name) {
				heading = "Flags of nodeagent run that are often needed"
			}
			_ = c.Flags().SetAnnotation(f.Name, config.FlagGroup, []string{heading})
		}
	})
}

// elsewhere is the group of flags that help does not show.
const elsewhere = "-"

func flagNames(c *cobra.Command) []string {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// usage prints the help of a command: its command line, examples, then its flags under their
// headings.
func usage(c *cobra.Command) error {
	var b strings.Builder
	line := c.UseLine()
	if !c.Runnable() {
		line = c.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", line)
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", strings.TrimRight(c.Example, "\n"))
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() || s.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s %s\n", s.NamePadding(), s.Name(), s.Short)
			}
		}
		fmt.Fprintf(&b, "\nHelp for a command: %s COMMAND --help\n", c.CommandPath())
	}
	writeFlags(&b, c)
	b.WriteString("\n")
	_, err := fmt.Fprint(c.OutOrStderr(), b.String())
	return err
}

// writeFlags writes the flags, group by group in the order in which groups first appear.
func writeFlags(b *strings.Builder, c *cobra.Command) {
	c.InitDefaultHelpFlag()
	groups, order := map[string]*pflag.FlagSet{}, []string{}
	c.Flags().SortFlags = false
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		heading := "Flags"
		if a := f.Annotations[config.FlagGroup]; len(a) > 0 {
			heading = a[0]
		}
		if f.Hidden {
			return
		}
		if groups[heading] == nil {
			groups[heading] = pflag.NewFlagSet(heading, pflag.ContinueOnError)
			groups[heading].SortFlags = false
			order = append(order, heading)
		}
		groups[heading].AddFlag(f)
	})
	for _, heading := range order {
		if heading != elsewhere {
			fmt.Fprintf(b, "\n%s:\n%s", heading, groups[heading].FlagUsagesWrapped(130))
		}
	}
	if groups[elsewhere] != nil {
		fmt.Fprintf(b, "\nAll other flags of \"nodeagent run\" are accepted, too: nodeagent run --help\n")
	}
}
