package conformance

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// ParseList reads a list of specs: one name a line, lines that begin with # and empty ones are
// skipped.
func ParseList(r io.Reader) ([]string, error) {
	var out []string
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if l := strings.TrimSpace(scan.Text()); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("reading list of specs: %w", err)
	}
	return normalized(out), nil
}

// WriteList writes a list of specs below a comment, so that two versions of it differ only in what
// was added.
func WriteList(w io.Writer, comment string, names []string) error {
	var b strings.Builder
	for l := range strings.Lines(comment) {
		b.WriteString("# " + strings.TrimSpace(l) + "\n")
	}
	for _, n := range normalized(names) {
		b.WriteString(n + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func normalized(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// Verdict is a run held against the list of specs known to pass.
type Verdict struct {
	Passed, Failed, Skipped []Spec
	Regressed               []Spec   // failed although listed
	New                     []Spec   // passed although not listed
	Unstable                []Spec   // passed only when run again
	Suite                   []string // failures outside of specs
}

// Judge compares a run with a list. A listed spec that was not run says nothing.
func Judge(listed []string, r Report) Verdict {
	known := make(map[string]bool, len(listed))
	for _, n := range listed {
		known[n] = true
	}
	v := Verdict{Suite: r.Suite}
	for _, s := range r.Specs {
		switch s.State {
		case Passed:
			v.Passed = append(v.Passed, s)
			if !known[s.Name] {
				v.New = append(v.New, s)
			}
		case Failed:
			v.Failed = append(v.Failed, s)
			if known[s.Name] {
				v.Regressed = append(v.Regressed, s)
			}
		case Skipped:
			v.Skipped = append(v.Skipped, s)
		}
	}
	return v
}

// OK says that nothing that used to pass has failed, that few specs needed a second try, that the
// suite itself ran, and that specs were found.
func (v Verdict) OK() bool {
	return len(v.Regressed) == 0 && !Unsteady(len(v.Unstable), len(v.Passed)+len(v.Failed)) && len(v.Suite) == 0 && len(v.Passed)+len(v.Failed)+len(v.Skipped) > 0
}

// Merge is the list with what is new in it. Nothing ever leaves it.
func (v Verdict) Merge(listed []string) []string {
	all := append([]string(nil), listed...)
	for _, s := range v.New {
		all = append(all, s.Name)
	}
	return normalized(all)
}

// Summary is what a person wants to see at the end of a run.
func (v Verdict) Summary() string {
	var b strings.Builder
	section := func(title string, specs []Spec, why bool) {
		if len(specs) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s:\n", title)
		for _, s := range specs {
			fmt.Fprintf(&b, "  %s (%v)\n", s.Name, s.Duration.Round(100*time.Millisecond))
			if why && s.Failure != "" {
				fmt.Fprintf(&b, "      %s\n", shorten(s.Failure, 300))
			}
		}
	}
	section("Skipped by themselves", v.Skipped, true)
	section("Newly passing", v.New, false)
	section("Failed", v.Failed, true)
	section("UNSTABLE (failed, then passed when run again alone)", v.Unstable, true)
	section("REGRESSED (listed as passing, failed now)", v.Regressed, false)
	for _, s := range v.Suite {
		fmt.Fprintf(&b, "SUITE: %s\n", shorten(s, 600))
	}
	ran := len(v.Passed) + len(v.Failed)
	fmt.Fprintf(&b, "%d of %d specs passed, %d failed, %d skipped; %d newly passing, %d regressed, %d unstable; slowest: %s\n",
		len(v.Passed), ran, len(v.Failed), len(v.Skipped), len(v.New), len(v.Regressed), len(v.Unstable), v.slowest())
	return b.String()
}

func (v Verdict) slowest() string {
	all := slices.Concat(v.Passed, v.Failed)
	if len(all) == 0 {
		return "none"
	}
	s := slices.MaxFunc(all, func(a, b Spec) int { return cmp.Compare(a.Duration, b.Duration) })
	return fmt.Sprintf("%v %s", s.Duration.Round(time.Second), s.Name)
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
