package bootstrap

import (
	"fmt"
	"strings"
)

// EnvText renders the daemon's flags as the environment file of its unit, NODEAGENT_ARGS="…"; empty
// for no flags. systemd splits the value at white space, so flags that would need quotes are an
// error.
func EnvText(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	for _, a := range args {
		if strings.ContainsAny(a, " \t\n\"'\\$") {
			return "", fmt.Errorf("writing flag %q for the daemon: it has white space, quotes, \\ or $; put it into a configuration file", a)
		}
	}
	return "# Written by nodeagent join; edit at will, it is written again only by a join with other flags.\nNODEAGENT_ARGS=\"" + strings.Join(args, " ") + "\"\n", nil
}

// EnvArgs reads back what EnvText wrote; nil when there is nothing of the kind.
func EnvArgs(text string) []string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "NODEAGENT_ARGS="); ok {
			return strings.Fields(strings.Trim(value, `"`))
		}
	}
	return nil
}
