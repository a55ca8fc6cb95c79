package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// setup sets the machine's host name and the address of vec0. It loads the modules that a node
// needs, because the kernel does not load them on demand for sysctls such as
// bridge-nf-call-iptables.
func setup(ctx context.Context, opts map[string]string) error {
	var errs []error
	if name := opts["name"]; name != "" {
		errs = append(errs, syscall.Sethostname([]byte(name)),
			os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644),
			os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 "+name+"\n"), 0o644))
	}
	for _, m := range []string{"br_netfilter", "overlay", "ip_vs", "nf_conntrack", "ipv6", "veth"} {
		errs = append(errs, command(ctx, "modprobe", m))
	}
	errs = append(errs, command(ctx, "ip", "link", "set", "lo", "up"))
	if a := opts["addr"]; a != "" {
		errs = append(errs, command(ctx, "ip", "link", "set", "vec0", "up"), command(ctx, "ip", "address", "replace", a, "dev", "vec0"))
	}
	if gw := opts["gw"]; gw != "" {
		errs = append(errs, command(ctx, "ip", "route", "replace", "default", "via", gw))
	}
	for k, v := range map[string]string{"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1", "vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		errs = append(errs, os.WriteFile("/proc/sys/"+k, []byte(v), 0o644))
	}
	return errors.Join(append(errs, clockSpeed())...)
}

// clockSpeed bind-mounts a copy of /proc/cpuinfo with a clock speed, which the real one lacks:
// upstream's kubelet does not start without.
func clockSpeed() error {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return fmt.Errorf("reading cpuinfo: %w", err)
	}
	if strings.Contains(string(b), "cpu MHz") {
		return nil
	}
	out := strings.TrimRight(string(b), "\n") + "\ncpu MHz\t\t: 2000.000\n\n"
	if err := os.WriteFile("/run/cpuinfo", []byte(out), 0o444); err != nil {
		return fmt.Errorf("writing cpuinfo: %w", err)
	}
	if err := syscall.Mount("/run/cpuinfo", "/proc/cpuinfo", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding cpuinfo: %w", err)
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
