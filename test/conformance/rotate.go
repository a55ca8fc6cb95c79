package conformance

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a spec is taken to last that no run has measured. One that says of itself that it is slow
// may take a quarter of an hour.
const (
	unknownDuration     = 30 * time.Second
	unknownSlowDuration = 15 * time.Minute
)

// Durations says how long specs took when they passed, by name.
type Durations map[string]time.Duration

// Of is a spec's measured duration, or a guess.
func (d Durations) Of(name string) time.Duration {
	if got, ok := d[name]; ok {
		return got
	}
	if strings.Contains(name, "[Slow]") {
		return unknownSlowDuration
	}
	return unknownDuration
}

// Learn takes over what a run measured of the specs that it passed.
func (d Durations) Learn(r Report) {
	for _, s := range r.Specs {
		if s.State == Passed {
			d[s.Name] = max(s.Duration.Round(time.Second), time.Second)
		}
	}
}

// ParseDurations reads a list of specs, each behind its duration in whole seconds.
func ParseDurations(r io.Reader) (Durations, error) {
	out := Durations{}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		seconds, name, _ := strings.Cut(line, " ")
		number, err := strconv.Atoi(seconds)
		if err != nil || number < 1 || name == "" {
			return nil, fmt.Errorf("reading durations of specs, line %d: %q is not a number of seconds and a name", n, line)
		}
		out[strings.TrimSpace(name)] = time.Duration(number) * time.Second
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("reading durations of specs: %w", err)
	}
	return out, nil
}

// WriteDurations writes what ParseDurations reads, sorted by name.
func WriteDurations(w io.Writer, comment string, d Durations) error {
	var b strings.Builder
	for l := range strings.Lines(comment) {
		b.WriteString("# " + strings.TrimSpace(l) + "\n")
	}
	names := make([]string, 0, len(d))
	for name := range d {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = fmt.Fprintf(&b, "%d %s\n", int(d[name].Seconds()), name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Pick chooses specs that together last about budget when procs of them run side by side. The seed
// alone decides the order in which they are considered, so every spec has its turn over enough
// seeds, and a spec that joins the list moves no other one. A spec that is longer than what is left
// gives way to the next. Those that are longer than the budget, however many run beside them, are
// never chosen, and returned too.
func Pick(listed []string, d Durations, seed string, budget time.Duration, procs int) (chosen, tooLong []string) {
	type ticket struct{ key, name string }
	tickets := make([]ticket, 0, len(listed))
	for _, name := range normalized(listed) {
		sum := sha256.Sum256([]byte(seed + "\x00" + name))
		tickets = append(tickets, ticket{string(sum[:]), name})
	}
	slices.SortFunc(tickets, func(a, b ticket) int { return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.name, b.name)) })
	left := budget * time.Duration(procs)
	for _, t := range tickets {
		switch took := d.Of(t.name); {
		case took > budget:
			tooLong = append(tooLong, t.name)
		case took <= left:
			left -= took
			chosen = append(chosen, t.name)
		}
	}
	return normalized(chosen), normalized(tooLong)
}

// Focus is the regular expression that selects exactly these specs. Ginkgo matches it against the
// suite's name, a blank and the spec's.
func Focus(names []string) string {
	quoted := make([]string, 0, len(names))
	for _, n := range names {
		quoted = append(quoted, regexp.QuoteMeta(n))
	}
	return " (?:" + strings.Join(quoted, "|") + ")$"
}

// Names lists specs by name.
func Names(specs []Spec) []string {
	out := make([]string, 0, len(specs))
	for _, s := range specs {
		out = append(out, s.Name)
	}
	return out
}

// Retried is a report in which the specs that a second run passed have passed, and those specs,
// with why they failed first.
func (r Report) Retried(second Report) (merged Report, unstable []Spec) {
	again := map[string]Spec{}
	for _, s := range second.Specs {
		again[s.Name] = s
	}
	merged = Report{Suite: slices.Concat(r.Suite, second.Suite)}
	for _, s := range r.Specs {
		if now, ok := again[s.Name]; ok && s.State == Failed && now.State == Passed {
			unstable = append(unstable, s)
			s = now
		}
		merged.Specs = append(merged.Specs, s)
	}
	return merged, unstable
}

// Unsteady says that so many specs needed a second try that it is no accident: more than one in
// twenty, and more than one.
func Unsteady(unstable, ran int) bool { return unstable > 1 && unstable*20 > ran }
