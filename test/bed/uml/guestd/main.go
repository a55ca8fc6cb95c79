// Command guestd runs inside a User-Mode Linux machine of the test bed: `guestd setup` gives the
// machine the name, address and route of the kernel's command line, `guestd serve` runs commands
// for the machine's owner (package wire).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guestd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading kernel command line: %w", err)
	}
	opts := parseCmdline(string(raw))
	switch strings.Join(args, " ") {
	case "setup":
		return setup(ctx, opts)
	case "serve":
		return serve(ctx, opts["token"])
	}
	return fmt.Errorf("wanted setup or serve, got %q", args)
}

// parseCmdline returns the words bed.KEY=VALUE of a kernel command line.
func parseCmdline(s string) map[string]string {
	opts := map[string]string{}
	for _, w := range strings.Fields(s) {
		if k, v, ok := strings.Cut(w, "="); ok && strings.HasPrefix(k, "bed.") {
			opts[strings.TrimPrefix(k, "bed.")] = v
		}
	}
	return opts
}
