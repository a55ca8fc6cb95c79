package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
)

// reporter prints the progress of a join, as lines for people or as one JSON object per line.
type reporter struct {
	w    io.Writer
	json bool
}

func (r *reporter) event(e bootstrap.Event) {
	if r.json {
		if e.State != bootstrap.Begun {
			r.object(map[string]any{
				"step": int(e.Phase), "of": bootstrap.Phases, "name": e.Phase.String(), "state": string(e.State),
				"detail": e.Detail, "milliseconds": e.Took.Milliseconds(),
			})
		}
		return
	}
	switch e.State {
	case bootstrap.Begun:
	case bootstrap.Waiting:
		r.line("      %-18s … %s\n", "", e.Detail)
	case bootstrap.Failed:
		r.line("[%d/%d] %-18s failed  %s\n", e.Phase, bootstrap.Phases, e.Phase, short(e.Took))
	case bootstrap.Skipped:
		r.line("[%d/%d] %-18s nothing to do\n", e.Phase, bootstrap.Phases, e.Phase)
	case bootstrap.Done:
		r.line("[%d/%d] %-18s ok  %s  %s\n", e.Phase, bootstrap.Phases, e.Phase, e.Detail, short(e.Took))
	}
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

func (r *reporter) plan(steps []bootstrap.Step) error {
	if r.json {
		return json.NewEncoder(r.w).Encode(steps)
	}
	for _, s := range steps {
		r.line("%s\n", s)
	}
	if len(steps) == 0 {
		r.line("nothing to do: this machine has joined\n")
	}
	return nil
}

func (r *reporter) result(node string, joined bool, took time.Duration, err error) error {
	if r.json {
		o := map[string]any{"node": node, "joined": err == nil, "already": joined, "milliseconds": took.Milliseconds(), "exitCode": bootstrap.ExitCode(err)}
		if err != nil {
			o["error"] = err.Error()
		}
		r.object(o)
		if err != nil {
			return saidError{err}
		}
		return nil
	}
	switch {
	case err != nil:
		return err
	case joined:
		r.line("%s has joined already: nothing to do\n", node)
	default:
		r.line("%s joined in %s. See: nodeagent status, or kubectl get node %s\n", node, short(took), node)
	}
	return nil
}

// line and object write to standard output; there is no other place to report an error of it.
func (r *reporter) line(format string, args ...any) { _, _ = fmt.Fprintf(r.w, format, args...) }

func (r *reporter) object(o any) {
	_ = json.NewEncoder(r.w).Encode(o)
}
