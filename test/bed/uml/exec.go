package uml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/bed/uml/wire"
)

// Command is one command for a machine.
type Command struct {
	Args           []string  // argv; the first is looked up in the machine's PATH
	Env            []string  // KEY=value, beside the machine's own
	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer // nil: dropped
}

// Result is what a finished command has returned.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128+n for signal n
}

// Exec runs a command as root in the machine and collects its output. A command that fails is a
// Result with a Code, not an error; an error means that it could not be run or that the machine
// went away.
func (m *Machine) Exec(ctx context.Context, args ...string) (Result, error) {
	var out, errOut bytes.Buffer
	code, err := m.Run(ctx, Command{Args: args, Stdout: &out, Stderr: &errOut})
	return Result{Stdout: out.String(), Stderr: errOut.String(), Code: code}, err
}

// Output runs a command in the machine and returns its stdout; an exit code other than 0 is an
// error with its stderr.
func (m *Machine) Output(ctx context.Context, args ...string) (string, error) {
	r, err := m.Exec(ctx, args...)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("running %q in %q: exit code %d: %s", strings.Join(args, " "), m.opts.Name, r.Code, strings.TrimSpace(r.Stderr))
	}
	return r.Stdout, nil
}

// Run runs a command as root in the machine and returns its exit code. If ctx ends first, the
// command's process group is killed.
func (m *Machine) Run(ctx context.Context, c Command) (int, error) {
	conn, err := m.Dial(ctx, "tcp4", net.JoinHostPort(m.Address().String(), strconv.Itoa(wire.Port)))
	if err != nil {
		return 0, fmt.Errorf("reaching machine %q: %w", m.opts.Name, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := wire.WriteRequest(conn, wire.Request{Token: m.token, Args: c.Args, Env: c.Env}); err != nil {
		return 0, fmt.Errorf("asking machine %q: %w", m.opts.Name, err)
	}
	go sendStdin(conn, c.Stdin)
	code, err := receive(conn, c)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return code, fmt.Errorf("running %q in %q: %w", strings.Join(c.Args, " "), m.opts.Name, err)
	}
	return code, nil
}

func sendStdin(w io.Writer, r io.Reader) {
	if r != nil {
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 && wire.Write(w, wire.KindStdin, buf[:n]) != nil {
				return // the command is over: its outcome is what counts
			}
			if err != nil {
				break
			}
		}
	}
	_ = wire.Write(w, wire.KindStdin, nil)
}

func receive(r io.Reader, c Command) (int, error) {
	for {
		k, b, err := wire.Read(r)
		if err != nil {
			return 0, fmt.Errorf("the machine hung up: %w", err)
		}
		var dst io.Writer
		switch k {
		case wire.KindStdout:
			dst = c.Stdout
		case wire.KindStderr:
			dst = c.Stderr
		case wire.KindFailure:
			return 0, fmt.Errorf("%s", b)
		case wire.KindExit:
			return wire.ParseExitCode(b)
		}
		if dst != nil {
			if _, err := dst.Write(b); err != nil {
				return 0, fmt.Errorf("passing output on: %w", err)
			}
		}
	}
}

// CopyTo copies a file or folder of this machine into the guest, as guestPath, with modes and
// links.
func (m *Machine) CopyTo(ctx context.Context, local, guestPath string) error {
	local = filepath.Clean(local)
	tar := exec.CommandContext(ctx, "tar", "-C", filepath.Dir(local), "-c", "--transform", renameRule(filepath.Base(local), path.Base(guestPath)), "--", filepath.Base(local))
	out, err := tar.StdoutPipe()
	if err != nil {
		return fmt.Errorf("copying %q: %w", local, err)
	}
	var msg bytes.Buffer
	tar.Stderr = &msg
	if err := tar.Start(); err != nil {
		return fmt.Errorf("copying %q: %w", local, err)
	}
	dir := path.Dir(guestPath)
	code, runErr := m.Run(ctx, Command{Args: []string{"sh", "-c", `mkdir -p "$1" && tar -C "$1" -x --no-same-owner`, "sh", dir}, Stdin: out, Stderr: &msg})
	if err := copied(tar.Wait(), runErr, code, &msg); err != nil {
		return fmt.Errorf("copying %q to %q in %q: %w", local, guestPath, m.opts.Name, err)
	}
	return nil
}

// renameRule is tar's expression that renames the first part of each path. Links keep their
// targets.
func renameRule(from, to string) string {
	quote := strings.NewReplacer(`\`, `\\`, "|", `\|`, ".", `\.`, "*", `\*`, "[", `\[`, "^", `\^`, "$", `\$`)
	return "flags=rSH;s|^" + quote.Replace(from) + "|" + strings.ReplaceAll(to, "|", `\|`) + "|"
}

// CopyFrom copies a file or folder of the guest into the folder localDir, under its own name.
func (m *Machine) CopyFrom(ctx context.Context, guestPath, localDir string) error {
	tar := exec.CommandContext(ctx, "tar", "-C", localDir, "-x", "--no-same-owner")
	in, err := tar.StdinPipe()
	if err != nil {
		return fmt.Errorf("copying %q: %w", guestPath, err)
	}
	var msg bytes.Buffer
	tar.Stderr = &msg
	if err := tar.Start(); err != nil {
		return fmt.Errorf("copying %q: %w", guestPath, err)
	}
	code, runErr := m.Run(ctx, Command{Args: []string{"tar", "-C", path.Dir(guestPath), "-c", "--", path.Base(guestPath)}, Stdout: in, Stderr: &msg})
	_ = in.Close()
	if err := copied(tar.Wait(), runErr, code, &msg); err != nil {
		return fmt.Errorf("copying %q from %q: %w", guestPath, m.opts.Name, err)
	}
	return nil
}

// copied joins the errors of the two ends of a copy.
func copied(here, there error, code int, msg fmt.Stringer) error {
	if code != 0 {
		there = errors.Join(there, fmt.Errorf("tar in the machine ended with %d", code))
	}
	if err := errors.Join(here, there); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(msg.String()))
	}
	return nil
}

// WriteFile writes a file in the guest, with the folders above it.
func (m *Machine) WriteFile(ctx context.Context, guestPath string, content []byte, mode os.FileMode) error {
	var msg bytes.Buffer
	script := `mkdir -p "$(dirname "$1")" && cat >"$1.part" && chmod "$2" "$1.part" && mv "$1.part" "$1"`
	code, err := m.Run(ctx, Command{Args: []string{"sh", "-c", script, "sh", guestPath, fmt.Sprintf("%o", mode.Perm())}, Stdin: bytes.NewReader(content), Stderr: &msg})
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("writing %q in %q: exit code %d: %s", guestPath, m.opts.Name, code, msg.String())
	}
	return nil
}

// Dial connects from inside the namespace that holds the machine's tap. The address must be
// numeric.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		// Never unlocked: the thread has changed its namespace and ends with this goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(m.opts.netnsPath())
		if err != nil {
			got <- answer{nil, fmt.Errorf("opening network namespace: %w", err)}
			return
		}
		defer func() { _ = ns.Close() }()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			got <- answer{nil, fmt.Errorf("entering network namespace %q: %w", m.opts.Netns, err)}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		got <- answer{conn, err}
	}()
	a := <-got
	return a.conn, a.err
}

func (m *Machine) addTap(ctx context.Context) error {
	tap := m.opts.tap()
	ip := func(args ...string) error {
		return runQuiet(exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + m.opts.netnsPath(), "--", "ip"}, args...)...))
	}
	if err := ip("tuntap", "add", tap, "mode", "tap"); err != nil {
		return fmt.Errorf("making tap: %w", err)
	}
	var err error
	if m.opts.Bridge != "" {
		err = ip("link", "set", tap, "master", m.opts.Bridge)
	} else {
		err = ip("address", "add", fmt.Sprintf("%s/%d", m.opts.Gateway, m.opts.Address.Bits()), "dev", tap)
	}
	if err == nil {
		err = ip("link", "set", tap, "up")
	}
	if err != nil {
		return fmt.Errorf("connecting tap: %w", err)
	}
	return nil
}

func (m *Machine) removeTap(ctx context.Context) error {
	if _, err := os.Stat(m.opts.netnsPath()); errors.Is(err, os.ErrNotExist) {
		return nil // it went with its namespace
	}
	err := runQuiet(exec.CommandContext(ctx, "nsenter", "--net="+m.opts.netnsPath(), "--", "ip", "link", "delete", m.opts.tap()))
	if err != nil && strings.Contains(err.Error(), "Cannot find device") {
		return nil
	}
	return err
}
