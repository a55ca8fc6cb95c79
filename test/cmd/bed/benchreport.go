package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// quantity is one thing to measure.
type quantity struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Shares are the percentiles to report; none reports the median.
	Shares []float64 `json:"-"`
}

func seconds(name string, shares ...float64) quantity { return quantity{name, "s", shares} }
func memory(name string) quantity                     { return quantity{name, "MiB", nil} }

// The quantities. In pairs, the second includes what the agent brings along.
var (
	processStart   = seconds("process start to node Ready")
	podStart       = seconds("pod start", 0.5, 0.9, 0.99)
	podDeletion    = seconds("pod deletion", 0.5, 0.9)
	burstStart     = seconds("burst: all pods Ready")
	burstEnd       = seconds("burst: all pods gone")
	burstCPU       = seconds("burst: CPU of agent and runtime")
	idleCPU        = seconds("idle: CPU of agent, per minute")
	idleCPUAll     = seconds("idle: CPU of agent and runtime, per minute")
	idleRSS        = [2]quantity{memory("idle: RSS of agent"), memory("idle: RSS of agent and runtime")}
	idlePSS        = [2]quantity{memory("idle: PSS of agent"), memory("idle: PSS of agent and runtime")}
	loadedRSS      = [2]quantity{memory("with pods: RSS of agent"), memory("with pods: RSS of agent and runtime")}
	loadedPSS      = [2]quantity{memory("with pods: PSS of agent"), memory("with pods: PSS of agent and runtime")}
	servicesCPU    = seconds("Services: CPU of agent for creating them")
	servicesRSS    = memory("Services: RSS of agent with them")
	proxyCPU       = seconds("Services: CPU for creating them, nodeagent's both halves beside kube-proxy alone")
	proxyRSS       = memory("Services: RSS with them, nodeagent's both halves beside kube-proxy alone")
	fresh          = freshFigures("nodeagent's both halves beside kube-proxy alone")
	freshProxy     = freshFigures("nodeagent's services half alone beside kube-proxy")
	endpointChange = seconds("Services: endpoint change to packets", 0.5, 0.9)
)

// freshFigure are the quantities of a proxy that starts with all Services and no rules.
type freshFigure struct{ took, cpu, peak, rss quantity }

func freshFigures(who string) freshFigure {
	return freshFigure{
		seconds("from nothing: start to packets, " + who), seconds("from nothing: CPU, " + who),
		memory("from nothing: peak RSS, " + who), memory("from nothing: RSS after a rest, " + who),
	}
}

// report gathers the figures of one run.
type report struct {
	Began  time.Time      `json:"began"`
	Ended  time.Time      `json:"ended"`
	CPUs   int            `json:"cpus"`
	Load   [2]string      `json:"load"` // load averages at begin and end
	Given  map[string]any `json:"given"`
	Values []*measured    `json:"values"`
	Rows   []row          `json:"rows"`
}

// measured holds all values of one quantity by side, in order of measurement.
type measured struct {
	quantity
	Of map[string][]float64 `json:"of"`
}

// row is one line of the table.
type row struct {
	What      string  `json:"what"`
	Unit      string  `json:"unit"`
	NodeAgent float64 `json:"nodeagent"`
	Upstream  float64 `json:"upstream"`
	// Ratio is nodeagent's value divided by upstream's: below 1, nodeagent needs less. 0 if
	// upstream's is 0.
	Ratio float64 `json:"ratio"`
	Count int     `json:"count"` // values of each side
}

func newReport(o benchOptions) report {
	return report{Began: time.Now(), CPUs: runtime.NumCPU(), Load: [2]string{load()}, Given: map[string]any{
		"pods": o.pods, "burst": o.burst, "bursts": o.bursts, "starts": o.starts, "services": o.services, "changes": o.changes, "fresh": o.fresh,
		"idleSeconds": o.idle.Seconds(),
	}}
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func (r *report) add(q quantity, s *side, value float64) {
	i := slices.IndexFunc(r.Values, func(m *measured) bool { return m.Name == q.Name })
	if i < 0 {
		i = len(r.Values)
		r.Values = append(r.Values, &measured{quantity: q, Of: map[string][]float64{}})
	}
	r.Values[i].Of[s.name] = append(r.Values[i].Of[s.name], value)
}

// rows returns one line for each percentile.
func (m *measured) rows() []row {
	shares := m.Shares
	if len(shares) == 0 {
		shares = []float64{0.5}
	}
	var out []row
	for _, share := range shares {
		name := m.Name
		if len(m.Shares) > 0 {
			name = fmt.Sprintf("%s, p%g", name, 100*share)
		}
		r := row{
			What: name, Unit: m.Unit, NodeAgent: percentile(m.Of["nodeagent"], share), Upstream: percentile(m.Of["upstream"], share),
			Count: len(m.Of["nodeagent"]),
		}
		if r.Upstream > 0 {
			r.Ratio = r.NodeAgent / r.Upstream
		}
		out = append(out, r)
	}
	return out
}

// percentile is the nearest-rank one.
func percentile(values []float64, share float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)]
}

// finish prints the table, and writes the file if one is named.
func (r *report) finish(w io.Writer, file string) error {
	r.Ended, r.Load[1] = time.Now(), load()
	for _, m := range r.Values {
		r.Rows = append(r.Rows, m.rows()...)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(t, "\nwhat\tunit\tnodeagent\tupstream\tratio\tvalues\n")
	for _, row := range r.Rows {
		ratio := "-"
		if row.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", row.Ratio)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", row.What, row.Unit, figure(row.NodeAgent), figure(row.Upstream), ratio, row.Count)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	_, _ = fmt.Fprintf(w, "\n%d processors; load averages %s when it began, %s when it ended; ratio: nodeagent's part of upstream's\n",
		r.CPUs, r.Load[0], r.Load[1])
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
