// Package summary is PURE: what `nodeagent status` shows. The agent fills a Report and serves it as
// JSON on a socket that only root can open; the command prints it on one screen.
package summary

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the state of a running agent. Durations are nanoseconds in JSON.
type Report struct {
	Version string    `json:"version"`
	Node    Node      `json:"node"`
	Pods    []Pod     `json:"pods"`
	Proxy   []Proxy   `json:"proxy"`
	Errors  []Error   `json:"errors"` // newest first
	At      time.Time `json:"at"`
	Started time.Time `json:"started"`
	Memory  int64     `json:"memory"` // resident bytes
}

// Node is this node as the API server has it, with the agent's connections.
type Node struct {
	Name       string    `json:"name"`
	Addresses  []string  `json:"addresses,omitempty"`
	Server     string    `json:"server"`
	Registered bool      `json:"registered"`
	Ready      bool      `json:"ready"`
	Message    string    `json:"message,omitempty"` // of the Ready condition
	Lease      time.Time `json:"lease"`             // its last renewal
	Expires    time.Time `json:"expires"`           // the client certificate does
	Runtime    string    `json:"runtime,omitempty"`
	Warnings   []string  `json:"warnings,omitempty"`
}

// Pod is one pod and what its worker is doing.
type Pod struct {
	Namespace string                   `json:"namespace"`
	Name      string                   `json:"name"`
	UID       string                   `json:"uid"`
	Phase     string                   `json:"phase"`
	Reason    string                   `json:"reason,omitempty"`
	Ready     int                      `json:"ready"`
	Total     int                      `json:"total"`
	Restarts  int                      `json:"restarts"`
	IP        string                   `json:"ip,omitempty"`
	Plan      []string                 `json:"plan,omitempty"`
	UnderWay  map[string]time.Duration `json:"underWay,omitempty"`
	WakeAt    time.Time                `json:"wakeAt"`
	LastError string                   `json:"lastError,omitempty"`
}

// Proxy is one IP family of the services half.
type Proxy struct {
	Family    string    `json:"family"`
	Backend   string    `json:"backend"`
	Services  int       `json:"services"`
	Endpoints int       `json:"endpoints"`
	Synced    time.Time `json:"synced"`
	LastError string    `json:"lastError,omitempty"`
}

// Error is one error from the log.
type Error struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// The most errors and pods that are printed.
const (
	shownErrors = 5
	shownPods   = 40
)

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	p := printer{w: t}
	r.printNode(&p)
	r.printProxy(&p)
	r.printPods(&p)
	if len(r.Errors) > 0 {
		p.line("")
		p.line("LAST ERRORS")
		for _, e := range r.Errors[:min(len(r.Errors), shownErrors)] {
			p.line("%s ago  %s", age(r.At, e.At), e.Text)
		}
	}
	if p.err == nil {
		p.err = t.Flush()
	}
	return p.err
}

// printer keeps the first error, so that the callers of line need not check.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (r Report) printNode(p *printer) {
	n := r.Node
	state := "NotReady"
	switch {
	case !n.Registered:
		state = "not registered"
	case n.Ready:
		state = "Ready"
	}
	p.line("Agent:\t%s, up %s, %.0f MiB", r.Version, age(r.At, r.Started), float64(r.Memory)/(1<<20))
	p.line("Node:\t%s (%s) %s", n.Name, strings.Join(n.Addresses, ", "), state)
	if !n.Ready && n.Message != "" {
		p.line("\t%s", n.Message)
	}
	p.line("Server:\t%s, lease renewed %s ago", n.Server, age(r.At, n.Lease))
	if !n.Expires.IsZero() {
		p.line("Certificate:\tvalid until %s", n.Expires.UTC().Format(time.DateTime))
	}
	p.line("Runtime:\t%s", cmp.Or(n.Runtime, "away"))
	for _, warning := range n.Warnings {
		p.line("Warning:\t%s", warning)
	}
}

func (r Report) printProxy(p *printer) {
	if len(r.Proxy) == 0 {
		p.line("Proxy:\toff")
	}
	for _, f := range r.Proxy {
		p.line("Proxy:\t%s %s, %d services, %d endpoints, synced %s ago", f.Backend, f.Family, f.Services, f.Endpoints, age(r.At, f.Synced))
		if f.LastError != "" {
			p.line("\t%s", f.LastError)
		}
	}
}

func (r Report) printPods(p *printer) {
	p.line("Pods:\t%d", len(r.Pods))
	if len(r.Pods) == 0 {
		return
	}
	// Pods with actions under way or errors come first: they are what people look for.
	pods := slices.SortedStableFunc(slices.Values(r.Pods), func(a, b Pod) int { return cmp.Compare(b.busy(), a.busy()) })
	p.line("")
	p.line("NAMESPACE\tNAME\tREADY\tPHASE\tRESTARTS\tIP\tDOING")
	for i, pod := range pods {
		if i == shownPods {
			p.line("… and %d more", len(pods)-i)
			break
		}
		p.line("%s\t%s\t%d/%d\t%s\t%d\t%s\t%s", pod.Namespace, pod.Name, pod.Ready, pod.Total,
			cmp.Or(pod.Reason, pod.Phase), pod.Restarts, cmp.Or(pod.IP, "-"), pod.doing(r.At))
	}
	// Errors are below the table: a line of another shape would end its columns.
	for _, pod := range pods[:min(len(pods), shownPods)] {
		if pod.LastError != "" {
			p.line("%s/%s: %s", pod.Namespace, pod.Name, pod.LastError)
		}
	}
}

func (p Pod) busy() int {
	n := 2*len(p.UnderWay) + len(p.Plan)
	if p.LastError != "" {
		n++
	}
	return n
}

// doing names the actions under way, else when the next step is due.
func (p Pod) doing(now time.Time) string {
	if len(p.UnderWay) > 0 {
		parts := make([]string, 0, len(p.UnderWay))
		for _, key := range slices.Sorted(maps.Keys(p.UnderWay)) {
			parts = append(parts, fmt.Sprintf("%s for %s", key, short(p.UnderWay[key])))
		}
		return strings.Join(parts, ", ")
	}
	if !p.WakeAt.IsZero() && p.WakeAt.After(now) {
		return "next step in " + short(p.WakeAt.Sub(now))
	}
	return "-"
}

// age is how long ago t was, "never" for the zero time.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return short(now.Sub(t))
}

func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}
