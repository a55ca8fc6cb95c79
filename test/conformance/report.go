// Package conformance is PURE: it reads what a run of the Kubernetes e2e suite reports, and
// compares it with the list of specs that the agent is known to pass, which only ever grows.
package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// State is how a spec ended.
type State string

// The states of a spec that ran, or did not.
const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped" // by the spec itself while it ran: the cluster lacks something
)

// Spec is one spec's outcome.
type Spec struct {
	// full text, such as "[sig-node] Pods should get a host IP [NodeConformance] [Conformance]"
	Name     string
	State    State
	Duration time.Duration
	Failure  string // first lines of why it failed or was skipped, with the place
}

// Report is a run of the suite.
type Report struct {
	Specs []Spec   // those that were started, by name
	Suite []string // failures outside of specs, such as of the suite's set-up
}

// The parts of ginkgo's JSON report that are read here.
type (
	ginkgoSuite struct {
		SpecReports                []ginkgoSpec
		SpecialSuiteFailureReasons []string
	}
	ginkgoSpec struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		StartTime               time.Time
		RunTime                 time.Duration
		Failure                 struct {
			Message  string
			Location struct {
				FileName   string
				LineNumber int
			}
		}
	}
)

// ParseReport reads the file that `ginkgo --json-report` writes. Specs that were filtered out are
// left out.
func ParseReport(r io.Reader) (Report, error) {
	var suites []ginkgoSuite
	if err := json.NewDecoder(r).Decode(&suites); err != nil {
		return Report{}, fmt.Errorf("reading the suite's JSON report: %w", err)
	}
	var out Report
	for _, s := range suites {
		out.Suite = append(out.Suite, s.SpecialSuiteFailureReasons...) // a timeout or an interrupt
		for _, g := range s.SpecReports {
			spec, ok := g.spec()
			switch {
			case g.LeafNodeType != "It" && spec.State == Failed:
				out.Suite = append(out.Suite, g.LeafNodeType+" "+g.LeafNodeText+": "+spec.Failure)
			case g.LeafNodeType == "It" && ok:
				out.Specs = append(out.Specs, spec)
			}
		}
	}
	slices.SortStableFunc(out.Specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// spec translates one entry; false means that it was never started.
func (g ginkgoSpec) spec() (Spec, bool) {
	texts := append(append([]string(nil), g.ContainerHierarchyTexts...), g.LeafNodeText)
	s := Spec{Name: strings.Join(texts, " "), Duration: g.RunTime, Failure: firstLines(g.Failure.Message, 4)}
	if f := g.Failure.Location.FileName; f != "" {
		s.Failure += fmt.Sprintf(" (%s:%d)", f[strings.LastIndexByte(f, '/')+1:], g.Failure.Location.LineNumber)
	}
	switch g.State {
	case "passed":
		s.State = Passed
	case "skipped":
		// One that the filter left out has no message.
		s.State = Skipped
		return s, g.Failure.Message != ""
	case "failed", "panicked", "interrupted", "aborted", "timedout":
		s.State = Failed
	default: // pending
		return s, false
	}
	return s, true
}

func firstLines(s string, n int) string {
	var lines []string
	for l := range strings.Lines(strings.TrimSpace(s)) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
		if len(lines) == n {
			break
		}
	}
	return strings.Join(lines, "; ")
}
