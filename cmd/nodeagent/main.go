// Command nodeagent is one daemon that replaces kubelet and kube-proxy, and the tools around it.
// It parses flags, handles signals and sets the exit code; everything else is in pkg.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
)

// exitUsage is for wrong flags and wrong configuration. 10 to 20 are bootstrap.Code, 1 is for
// everything else.
const exitUsage = 2

// The kernel takes the main thread for the process: /proc/self and /proc/net show its namespaces.
// So it is main's alone, and no goroutine that enters a pod's namespaces ever runs on it.
func init() { //nolint:gochecknoinits // a thread is given to main only before main runs
	runtime.LockOSThread()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[0], os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code; it prints errors to errs.
func execute(ctx context.Context, name string, args []string, errs io.Writer) int {
	root := rootCommand()
	if calledAsKubelet(name) {
		root, args = kubeletCommand(), kubeletArgs(args)
	} else if len(args) > 0 && args[0] == "join" {
		args = append([]string{"join"}, bootstrap.Unpaste(args[1:])...)
	}
	err := unknownVerb(root, args)
	if err == nil {
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	var said saidError
	if !errors.As(err, &said) {
		fmt.Fprintln(errs, "nodeagent:", err)
	}
	var wrong config.Errors
	var usage usageError
	if errors.As(err, &wrong) || errors.As(err, &usage) {
		return exitUsage
	}
	return bootstrap.ExitCode(err)
}

// usageError marks a wrong command line.
type usageError struct{ error }

// saidError marks an error that has been printed already.
type saidError struct{ error }

func (e saidError) Unwrap() error { return e.error }
