// Package sysctl is EDGE: it sets the kernel parameters that the services half
// needs and warns of those that others have to set. plan.go, which says which,
// is PURE. It writes below /proc/sys/net only, and only what differs.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Sysctls reads and writes kernel parameters, by path below /proc/sys.
type Sysctls interface {
	Get(name string) (string, error)
	Set(name, value string) error
}

// Proc is the kernel of this process's network namespace; its value is the
// folder, normally /proc/sys.
type Proc string

// Get reads a parameter.
func (p Proc) Get(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(string(p), name))
	return strings.TrimSpace(string(data)), err
}

// Set writes a parameter.
func (p Proc) Set(name, value string) error {
	return os.WriteFile(filepath.Join(string(p), name), []byte(value), 0o644)
}

// Apply makes the changes that are needed. What the kernel does not let us
// write is told in one error, after all others have been made; a parameter
// that does not exist is only warned of. Running it twice is the same as once.
func Apply(changes []Change, s Sysctls, log *slog.Logger) error {
	var problems []error
	for _, c := range changes {
		have, err := s.Get(c.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && c.Check:
			continue // no bridge, no IPv6
		case errors.Is(err, fs.ErrNotExist):
			log.Warn("a kernel parameter does not exist", "sysctl", c.Name, "wanted", c.Value, "for", c.Why)
			continue
		case err != nil:
			problems = append(problems, fmt.Errorf("reading sysctl %q: %w", c.Name, err))
			continue
		case have == c.Value:
			continue
		}
		if c.Check {
			log.Warn("a kernel parameter should be set", "sysctl", c.Name, "is", have, "should", c.Value, "why", c.Why)
			continue
		}
		if err := s.Set(c.Name, c.Value); err != nil {
			problems = append(problems, fmt.Errorf("setting sysctl %q to %s for %s (0 in the configuration leaves it alone): %w", c.Name, c.Value, c.Why, err))
			continue
		}
		log.Info("set a kernel parameter", "sysctl", c.Name, "from", have, "to", c.Value, "for", c.Why)
	}
	return errors.Join(problems...)
}
