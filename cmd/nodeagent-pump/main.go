// Command nodeagent-pump is the small static program that runs beside the agent. It is kept small
// because it runs for as long as the node:
//
//	nodeagent-pump logs --socket PATH   the log pump of a node (see pkg/runtime/logpump/pump); returns when it answers on the socket
//	nodeagent-pump reap                 process 1 of a shared PID namespace: reaps orphans until SIGTERM
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/pump"
	"github.com/nodeagent/nodeagent/pkg/version"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: nodeagent-pump logs --socket PATH | reap | version"))
	}
	var err error
	switch verb, args := os.Args[1], os.Args[2:]; verb {
	case "logs":
		err = logs(args)
	case "reap":
		err = reap()
	case "version":
		fmt.Println(version.Agent())
	default:
		err = fmt.Errorf("unknown verb %q: logs, reap or version", verb)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "nodeagent-pump:", err)
	os.Exit(1)
}

// File descriptors that the detached pump inherits.
const (
	listenerFD = 3
	lockFD     = 4
)

func logs(args []string) error {
	flags := flag.NewFlagSet("logs", flag.ContinueOnError)
	socket := flags.String("socket", "", "path of the unix socket to answer on")
	serve := flags.Bool("serve", false, "serve on the inherited listener (internal)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *socket == "" {
		return errors.New("--socket is required")
	}
	if *serve {
		return serveLogs()
	}
	return detach(*socket)
}

// detach starts the pump in its own session and returns when its socket accepts connections. It
// does nothing if a pump runs already, which the lock file tells: a socket alone does not tell a
// live pump from a dead one.
func detach(socket string) error {
	lock, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("locking %q: %w", lock.Name(), err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	syscall.Umask(0o077)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	if err != nil {
		return err
	}
	messages, err := os.OpenFile(socket+".log", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	self := exec.Command("/proc/self/exe", "logs", "--socket", socket, "--serve")
	self.Args[0] = os.Args[0]
	self.Stdout, self.Stderr, self.Dir = messages, messages, "/"
	self.ExtraFiles = []*os.File{file, lock}
	self.Env = []string{"GOGC=50"}
	self.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := self.Start(); err != nil {
		return err
	}
	return self.Process.Release()
}

func serveLogs() error {
	syscall.CloseOnExec(lockFD)
	file := os.NewFile(listenerFD, "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("--serve is internal: %w", err)
	}
	_ = file.Close()
	syscall.Umask(0o022)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetMemoryLimit(32 << 20)
	// Signals from a terminal are meant for the agent. SIGTERM ends the pump: at shutdown, after
	// the containers.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return pump.New(version.Agent(), time.Now).Serve(ctx, listener)
}

// reap is process 1 of a shared PID namespace.
func reap() error {
	end := make(chan os.Signal, 1)
	child := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		select {
		case <-end:
			return nil
		case <-child:
		}
	}
}
