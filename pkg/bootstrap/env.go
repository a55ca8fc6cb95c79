package bootstrap

import (
	"fmt"
	"strings"
)

// EnvText renders the daemon's flags as the environment file of its unit, NODEAGENT_ARGS="…";
// empty without flags. systemd splits the value at white space, so a flag that needs quotes is an
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
	return "# Written by nodeagent join; you may edit it: only a join with other flags writes it again.\nNODEAGENT_ARGS=\"" + strings.Join(args, " ") + "\"\n", nil
}

// EnvArgs reads the flags from a text of EnvText; nil if it has none.
func EnvArgs(text string) []string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "NODEAGENT_ARGS="); ok {
			return strings.Fields(strings.Trim(value, `"`))
		}
	}
	return nil
}
