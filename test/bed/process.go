package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Spec describes a program to start inside a machine.
type Spec struct {
	Name string   // of the process and its log file; unique in its machine
	Path string   // program, as seen inside the machine
	Args []string // arguments, without the program's name
	Env  []string // NAME=VALUE, added to the environment of the test and to the bed's PATH
}

// Process is a program that runs inside a machine of the cluster until it, or the cluster, is
// stopped. Tests can kill it and start it again. Its methods are safe for concurrent use.
type Process struct {
	spec    Spec
	machine *machine
	env     []string

	mu   sync.Mutex
	id   processID     // of the program itself
	by   int           // process id of the nsenter that started it
	done chan struct{} // closed when the program has ended
	err  error         // how it ended; valid after done
}

// start runs a program inside the machine, with its output in a log file. It returns as soon as the
// program has started.
func (m *machine) start(env []string, spec Spec) (*Process, error) {
	p := &Process{spec: spec, machine: m, env: env}
	return p, p.Start()
}

// Start starts the program again after it has ended, and appends to its log file. It fails if the
// program still runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id.alive() {
		return fmt.Errorf("starting %q on %q: it runs already", p.spec.Name, p.machine.name)
	}
	log, err := openLog(p.Log())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// The program outlives any context; it ends with the machine.
	cmd := p.machine.command(context.Background(), append(p.env, p.spec.Env...), p.spec.Path, p.spec.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %q on %q: %w", p.spec.Name, p.machine.name, err)
	}
	p.by = cmd.Process.Pid
	pid, err := onlyChild(p.by)
	if err == nil {
		p.id, err = identify(pid)
	}
	done := make(chan struct{})
	p.done = done
	go func() {
		end := cmd.Wait()
		p.mu.Lock()
		p.err = end
		p.mu.Unlock()
		close(done)
	}()
	if err != nil {
		return fmt.Errorf("starting %q on %q: %w: %s", p.spec.Name, p.machine.name, err, logTail(p.Log(), 5))
	}
	return nil
}

// onlyChild waits for the process that nsenter forks into the PID namespace.
func onlyChild(parent int) (int, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/children", parent, parent)
	for range 2000 {
		content, err := os.ReadFile(path)
		if err != nil {
			return 0, fmt.Errorf("it ended at once: %w", err)
		}
		if f := strings.Fields(string(content)); len(f) > 0 {
			return strconv.Atoi(f[0])
		}
		time.Sleep(time.Millisecond)
	}
	return 0, errors.New("nsenter has started nothing for 2 s")
}

// PID is the process id outside of the machine.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id.PID
}

// Name is the name in its Spec.
func (p *Process) Name() string { return p.spec.Name }

// Log is the path of its log file, shared by all its runs.
func (p *Process) Log() string {
	return p.machine.run.path("log", p.machine.name+"-"+p.spec.Name+".log")
}

// Running reports whether it runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id.alive()
}

// Done is closed when the program's current run has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Err returns how the program ended, once Done is closed; nil means exit status 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends it a signal.
func (p *Process) Signal(s unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.id.alive() {
		return fmt.Errorf("signalling %q on %q: it does not run", p.spec.Name, p.machine.name)
	}
	if err := unix.Kill(p.id.PID, s); err != nil || s != unix.SIGCONT {
		return err
	}
	// nsenter stops itself when its child is stopped. In that state it would never reap the child,
	// and the machine would never end.
	return unix.Kill(p.by, unix.SIGCONT)
}

// Kill ends it with SIGKILL, like a crash, and waits for its end. Its children live on.
func (p *Process) Kill() error {
	p.mu.Lock()
	id, done := p.id, p.done
	p.mu.Unlock()
	if err := id.kill(); err != nil {
		return fmt.Errorf("killing %q on %q: %w", p.spec.Name, p.machine.name, err)
	}
	<-done
	return nil
}

// Stop sends SIGTERM and waits. After the grace it kills the program and returns an error.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("stopping %q on %q: still running %s after SIGTERM", p.spec.Name, p.machine.name, grace), p.Kill())
	}
}

// Restart stops and starts it.
func (p *Process) Restart(grace time.Duration) error {
	if err := p.Stop(grace); err != nil {
		return err
	}
	return p.Start()
}

func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	return f, nil
}

// logTail returns the last lines of a log file, for errors.
func logTail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
