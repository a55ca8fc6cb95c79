// Package sysctl is EDGE: it sets the kernel parameters that the services half
// needs and reports those that others have to set; plan.go, which says which, is
// PURE. It writes below /proc/sys/net, and the size of conntrack's hash table below
// /sys/module, and only what differs.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sysctls reads and writes kernel parameters, by the names that Change has.
type Sysctls interface {
	Get(name string) (string, error)
	Set(name, value string) error
}

// Kernel has the parameters of this process's network namespace; its value is the
// root of the file system, normally "/".
type Kernel string

func (k Kernel) path(name string) string {
	if strings.HasPrefix(name, "module/") {
		return filepath.Join(string(k), "sys", name)
	}
	return filepath.Join(string(k), "proc/sys", name)
}

// Get reads a parameter.
func (k Kernel) Get(name string) (string, error) {
	data, err := os.ReadFile(k.path(name))
	return strings.TrimSpace(string(data)), err
}

// Set writes a parameter.
func (k Kernel) Set(name, value string) error {
	return os.WriteFile(k.path(name), []byte(value), 0o644)
}

// Bridged says whether a bridge has a port.
func (k Kernel) Bridged() bool {
	ports, err := filepath.Glob(filepath.Join(string(k), "sys/class/net/*/brif/*"))
	return err == nil && len(ports) > 0
}

// Outcome is the result of one Change.
type Outcome struct {
	Change
	// Before is the parameter's previous value; empty: there is no such parameter.
	Before string
	// Set says that it was set, Pending that it does not exist yet.
	Set, Pending bool
	// Err says why the parameter is not as it should be; nil: it is.
	Err error
}

// Apply makes the changes that are needed. Running it twice is the same as once.
func Apply(changes []Change, s Sysctls) []Outcome {
	out := make([]Outcome, 0, len(changes))
	for _, c := range changes {
		out = append(out, apply(c, s))
	}
	return out
}

func apply(c Change, s Sysctls) Outcome {
	value, err := s.Get(c.Name)
	o := Outcome{Change: c, Before: value}
	switch {
	case c.Check && (errors.Is(err, fs.ErrNotExist) || err == nil && value != c.Value):
		is := value
		if err != nil {
			is = "missing"
		}
		o.Err = fmt.Errorf("kernel parameter %s is %s, should be %s: %s", dotted(c.Name), is, c.Value, c.Why)
	case errors.Is(err, fs.ErrNotExist):
		o.Pending = strings.Contains(c.Name, "nf_conntrack")
		o.Err = fmt.Errorf("setting kernel parameter %s to %s for %s: it does not exist%s", dotted(c.Name), c.Value, c.Why, unloaded(o.Pending))
	case err != nil:
		o.Err = fmt.Errorf("reading kernel parameter %s: %w", dotted(c.Name), err)
	case value == c.Value || c.AtLeast && atLeast(value, c.Value):
	default:
		if err := s.Set(c.Name, c.Value); err != nil {
			o.Err = fmt.Errorf("setting kernel parameter %s from %s to %s for %s (0 in the configuration leaves it alone): %w", dotted(c.Name), value, c.Value, c.Why, err)
			return o
		}
		o.Set = true
	}
	return o
}

// unloaded explains a missing parameter.
func unloaded(pending bool) string {
	if pending {
		return " until the kernel module nf_conntrack is loaded, which the first rules do"
	}
	return ""
}

func atLeast(value, want string) bool {
	h, err1 := strconv.Atoi(value)
	w, err2 := strconv.Atoi(want)
	return err1 == nil && err2 == nil && h >= w
}

// dotted is a name as sysctl(8) has it.
func dotted(name string) string {
	if strings.HasPrefix(name, "module/") {
		return "/sys/" + name
	}
	return strings.ReplaceAll(name, "/", ".")
}

// log logs a new outcome.
func (o Outcome) log(l *slog.Logger) {
	switch {
	case o.Set:
		l.Info("Set a kernel parameter", "name", dotted(o.Name), "from", o.Before, "to", o.Value, "for", o.Why)
	case o.Err != nil:
		l.Warn("A kernel parameter is not set as Services need it", "err", o.Err)
	}
}
