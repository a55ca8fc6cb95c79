package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/test/conformance"
)

// durationsComment heads the list of durations.
const durationsComment = `How many seconds each spec of passing.txt took when it passed last. Written by: make conformance UPDATE=1.`

// durations is the file beside the list that says how long specs take.
func (s settings) durations() string { return filepath.Join(filepath.Dir(s.list), "seconds.txt") }

func readDurations(path string) (conformance.Durations, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return conformance.Durations{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening durations of specs: %w", err)
	}
	defer func() { _ = f.Close() }()
	return conformance.ParseDurations(f)
}

// choose turns --only and --rotate into an expression that selects exactly the chosen specs.
func (s *settings) choose(ctx context.Context, source string, now time.Time) error {
	var names []string
	switch {
	case s.only != "":
		f, err := os.Open(s.only)
		if err != nil {
			return fmt.Errorf("opening the file of --only: %w", err)
		}
		defer func() { _ = f.Close() }()
		if names, err = conformance.ParseList(f); err != nil {
			return err
		}
	case s.rotate:
		listed, err := readList(s.list)
		if err != nil {
			return err
		}
		took, err := readDurations(s.durations())
		if err != nil {
			return err
		}
		s.seed = cmp.Or(s.seed, seed(ctx, source, now))
		var tooLong []string
		names, tooLong = conformance.Pick(listed, took, s.seed, s.budget, s.procs)
		fmt.Fprintf(os.Stderr, "seed %s chooses %d of %d specs, some %s; the same again: make test-conformance SEED=%s\n", s.seed, len(names), len(listed), s.budget, s.seed)
		if len(tooLong) > 0 {
			fmt.Fprintf(os.Stderr, "%d specs are never chosen, since each is longer than that or slow and not measured; `make conformance` runs them\n", len(tooLong))
		}
	default:
		return nil
	}
	if len(names) == 0 {
		return errors.New("choosing specs: there are none to choose from")
	}
	s.focus, s.skip = conformance.Focus(names), ""
	return nil
}

// seed is the checked-out commit; a tree without Git gets another part every day.
func seed(ctx context.Context, source string, now time.Time) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", "-C", source, "rev-parse", "HEAD").Output()
	if err != nil {
		return now.UTC().Format(time.DateOnly)
	}
	return strings.TrimSpace(string(out))
}

// title is the expression, unless it is too long to print.
func (s settings) title() string {
	if n := strings.Count(s.focus, "|") + 1; len(s.focus) > 200 {
		return fmt.Sprintf("%d specs by name", n)
	}
	return s.focus
}
