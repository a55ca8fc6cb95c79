package podnet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	cnitypes "github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nodeagent/nodeagent/pkg/osthread"
)

// Time limits of one CNI plugin call. DEL gets less than its caller waits for.
const (
	addTime    = 2 * time.Minute
	delTime    = time.Minute
	statusTime = 10 * time.Second
)

// pipeTime is how long to wait for the output of a killed plugin: a child of it may hold the pipe
// open.
const pipeTime = 2 * time.Second

// plugins runs CNI plugins for libcni, whose own implementation waits for ever for a plugin whose
// child does not exit.
type plugins struct{ version.PluginDecoder }

// FindInPath implements invoke.Exec.
func (*plugins) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec. The plugin is killed when ctx ends or the agent dies: a plugin
// that outlived its agent could take an address after the next agent has released it.
func (*plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	for try := 0; ; try++ {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, bytes.NewReader(stdin), &stdout, &stderr, pipeTime
		// Plugins that it calls join its process group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		var err error
		// The kernel sends the death signal when the thread that started the plugin ends.
		osthread.Run(func() bool { err = cmd.Run(); return true })
		switch {
		// it succeeded, and left a process behind
		case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
			return stdout.Bytes(), nil
		case errors.Is(err, syscall.ETXTBSY) && try < 5: // it is being installed
			t := time.NewTimer(time.Second)
			select {
			case <-t.C:
				continue
			case <-ctx.Done():
				t.Stop()
			}
		}
		return nil, pluginError(ctx, err, stdout.Bytes(), stderr.String())
	}
}

// pluginError returns the plugin's own error: JSON on stdout, else text on stderr.
func pluginError(ctx context.Context, err error, stdout []byte, stderr string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("the plugin did not end in time: %w", ctx.Err())
	}
	var said cnitypes.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		return &said
	}
	text := cmp.Or(strings.TrimSpace(stderr), strings.TrimSpace(string(stdout)))
	if text == "" {
		return fmt.Errorf("running the plugin: %w", err)
	}
	return fmt.Errorf("running the plugin: %w: %s", err, text)
}
