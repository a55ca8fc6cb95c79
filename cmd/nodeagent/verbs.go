package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// unknownVerb refuses an unknown command: cobra would print help and exit with 0.
func unknownVerb(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	found, rest, _ := root.Find(args)
	if found.Name() == "help" {
		found, rest, _ = root.Find(rest)
	}
	if found.Runnable() {
		return nil
	}
	i := slices.IndexFunc(rest, func(a string) bool { return !strings.HasPrefix(a, "-") })
	if i < 0 {
		return nil
	}
	var names []string
	near := ""
	for _, c := range found.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
		if slices.Contains(c.SuggestFor, rest[i]) {
			near = c.Name()
		}
	}
	if near == "" {
		near = config.Nearest(rest[i], names)
	}
	hint := ""
	if near != "" {
		hint = fmt.Sprintf("did you mean \"%s %s\"? ", found.CommandPath(), near)
	}
	return usageError{fmt.Errorf("%q is not a command of %s: %sthere are %s", rest[i], found.CommandPath(), hint, strings.Join(names, ", "))}
}

// wrongFlag adds to the error of an unknown flag the one that may have been meant.
func wrongFlag(c *cobra.Command, err error) error {
	_, name, unknown := strings.Cut(err.Error(), "unknown flag: --")
	if !unknown {
		return usageError{fmt.Errorf("%w (%s --help)", err, c.CommandPath())}
	}
	names := flagNames(c)
	if near := config.Nearest(name, names); near != "" {
		return usageError{fmt.Errorf("%w; did you mean --%s? (%s --help)", err, near, c.CommandPath())}
	}
	return usageError{fmt.Errorf("%w (%s --help)", err, c.CommandPath())}
}

// noArguments is cobra.NoArgs with this program's error text.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes flags only, not %q (%s --help)", c.CommandPath(), args[0], c.CommandPath())}
	}
	return nil
}

// serversArgument accepts at most one argument: API servers, comma-separated.
func serversArgument(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("%s takes one argument, not %d: several API servers are given comma-separated (%s %s)",
			c.CommandPath(), len(args), c.CommandPath(), strings.Join(args, ","))}
	}
	return nil
}

// choice is a flag with a fixed set of values.
type choice struct {
	value string
	among []string
}

func oneOf(otherwise string, others ...string) choice {
	return choice{otherwise, append([]string{otherwise}, others...)}
}

// String, Set and Type implement pflag.Value.
func (c *choice) String() string { return c.value }

// Set accepts a value of the set, whatever its case.
func (c *choice) Set(text string) error {
	i := slices.IndexFunc(c.among, func(a string) bool { return strings.EqualFold(a, text) })
	if i < 0 {
		return fmt.Errorf("use %s", strings.Join(c.among, " or "))
	}
	c.value = c.among[i]
	return nil
}

// Type is what help shows for a value.
func (c *choice) Type() string { return strings.Join(c.among, "|") }

// checks is a list of checks to ignore; an unknown name is an error.
type checks struct {
	names []string
	known []string
}

// String, Set and Type implement pflag.Value.
func (c *checks) String() string { return strings.Join(c.names, ",") }

// Set adds names, comma-separated. A name of kubeadm's preflight stands for the checks here that
// check the same.
func (c *checks) Set(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(c.known, func(k string) bool { return strings.EqualFold(k, name) })
		switch theirs, ok := kubeadmChecks(name); {
		case i >= 0:
			c.names = append(c.names, c.known[i])
		case ok:
			c.names = append(c.names, theirs...)
		case name != "":
			hint := ""
			if near := config.Nearest(name, c.known); near != "" {
				hint = fmt.Sprintf("did you mean %q? ", near)
			}
			return fmt.Errorf("there is no check %q: %sthe checks are %s", name, hint, strings.Join(c.known, ", "))
		}
	}
	return nil
}

// Type is what help shows for a value.
func (c *checks) Type() string { return "CHECK,CHECK" }

// kubeadmChecks maps a check of kubeadm, as in a pasted line, to the checks here, of which there
// may be none.
func kubeadmChecks(name string) (here []string, ok bool) {
	prefix, _, _ := strings.Cut(strings.ToLower(name), "-")
	here, ok = map[string][]string{
		"swap": {"swap"}, "port": {"ports"}, "isprivilegeduser": {"root"}, "hostname": {"hostname"}, "cri": {"containerd"},
		"containerruntimeversion": {"containerd"}, "systemverification": {"kernel", "features", "cgroup"}, "kubeletversion": {"version"},
		"kubernetesversion": {"version"}, "mem": nil, "numcpu": nil, "fileexisting": nil, "fileavailable": nil, "filecontent": nil,
		"diravailable": nil, "imagepull": nil, "service": nil, "firewalld": nil, "httpproxy": nil, "httpproxycidr": nil,
	}[prefix]
	return here, ok
}
