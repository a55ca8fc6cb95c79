package bootstrap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	// Fact is for people; may be empty.
	Fact string `json:"fact,omitempty"`
	// Problem is what is wrong and Remedy what to do; empty: nothing is wrong.
	Problem string `json:"problem,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	// Unknown says why the check could not be made; the cause is another check's problem.
	Unknown string `json:"unknown,omitempty"`
	// Ignored: the problem does not count.
	Ignored bool `json:"ignored,omitempty"`
	code    Code
}

// PreflightConfig says what to check.
type PreflightConfig struct {
	Host HostConfig
	// Servers are API servers to check: reachable, clock, version. Nothing they say is trusted.
	Servers []string
	// Ignore are names of checks whose problems do not count; "all" is every one.
	Ignore []string
	// Running: the daemon runs here already.
	Running bool
	// Minor is the agent's Kubernetes minor version.
	Minor int
	Now   func() time.Time
}

// Preflight makes every check that a join makes of this machine, and goes on after a problem. It
// changes nothing.
func Preflight(ctx context.Context, c PreflightConfig) []Finding {
	findings := checkHost(ctx, hostChecks(c.Host, c.Running), c.Ignore)
	if len(c.Servers) > 0 {
		findings = append(findings, checkServers(ctx, c)...)
	}
	return findings
}

func ignores(ignore []string, check string) bool {
	return slices.ContainsFunc(ignore, func(i string) bool { return strings.EqualFold(i, check) || i == "all" })
}

func checkHost(ctx context.Context, checks []HostCheck, ignore []string) []Finding {
	findings := make([]Finding, 0, len(checks))
	for _, c := range checks {
		fact, err := c.Run(ctx)
		var unknown NotChecked
		if errors.As(err, &unknown) {
			findings = append(findings, Finding{Check: c.Name, Unknown: string(unknown)})
			continue
		}
		findings = append(findings, finding(c.Name, fact, ignore, problemOf(err, CodeHost, c.Remedy)))
	}
	return findings
}

func problemOf(err error, code Code, remedy string) *Error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err, Next: remedy}
}

func finding(check, fact string, ignore []string, problem *Error) Finding {
	f := Finding{Check: check, Fact: fact}
	if problem != nil {
		f.Problem, f.Remedy, f.code, f.Ignored = problem.Err.Error(), problem.Next, problem.Code, ignores(ignore, check)
	}
	return f
}

// Failure is one error for all problems that count; nil if there is none. Its code is that of the
// first.
func Failure(findings []Finding) error {
	var names, lines []string
	var first *Finding
	for _, f := range findings {
		if f.Problem == "" || f.Ignored {
			continue
		}
		line := fmt.Sprintf("checking this machine (%s): %s", f.Check, f.Problem)
		if first == nil {
			first = &f
		} else {
			line += "\n  remedy: " + f.Remedy
		}
		names, lines = append(names, f.Check), append(lines, line)
	}
	if first == nil {
		return nil
	}
	return fail(first.code, first.Remedy+"; or skip the check: --ignore "+strings.Join(names, ","), "%s", strings.Join(lines, "\n"))
}

// factsOf lists the facts on one line.
func factsOf(findings []Finding) string {
	var facts []string
	for _, f := range findings {
		switch {
		case f.Ignored:
			facts = append(facts, f.Check+" ignored")
		case f.Fact != "":
			facts = append(facts, f.Fact)
		}
	}
	return strings.Join(facts, ", ")
}

// checkServers compares clock and version with those of the first API server that answers.
func checkServers(ctx context.Context, c PreflightConfig) []Finding {
	// nothing secret is sent, and no answer is trusted
	client := httpClient(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	defer client.CloseIdleConnections()
	var last error
	for _, server := range c.Servers {
		body, at, err := askVersion(ctx, client, server)
		if err != nil {
			last = err
			continue
		}
		findings := []Finding{{Check: "api-server", Fact: server + " answers"}}
		if !at.IsZero() {
			skew := c.Now().Sub(at)
			findings = append(findings, finding("clock", "clock skew "+skew.Abs().Round(time.Second).String(), c.Ignore, compareClocks(skew, server)))
		}
		if git, minor := versionOf(body); minor >= 0 {
			findings = append(findings, finding("version", "API server "+git, c.Ignore, compareVersions(git, minor, c.Minor)))
		}
		return findings
	}
	return []Finding{finding("api-server", "", c.Ignore, problemOf(last, CodeReach, "check address, port and firewall from here: curl -k https://HOST:PORT/livez"))}
}

func askVersion(ctx context.Context, client *http.Client, server string) (body []byte, at time.Time, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/version", nil)
	if err != nil {
		return nil, at, fmt.Errorf("reaching API server %s: %w", server, err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, at, fmt.Errorf("reaching API server %s: %w", server, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody)); err != nil {
		return nil, at, fmt.Errorf("reading the answer of API server %s: %w", server, err)
	}
	at, _ = http.ParseTime(resp.Header.Get("Date"))
	return body, at, nil
}

// maxSkew is how far clocks may differ: beyond it, new tokens and certificates are not valid yet.
const maxSkew = time.Minute

func compareClocks(skew time.Duration, server string) *Error {
	if skew.Abs() <= maxSkew {
		return nil
	}
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	return fail(CodeClock, "set the clock (timedatectl set-ntp true)",
		"comparing clocks: this machine's is %s %s that of %s", skew.Abs().Round(time.Second), side, server)
}

// compareVersions applies the skew policy: a node may be three minors older than the API server,
// and never newer.
func compareVersions(git string, server, agent int) *Error {
	if d := server - agent; server < 0 || agent == 0 || d >= 0 && d <= 3 {
		return nil
	}
	return fail(CodeVersion, "use a nodeagent for 1."+strconv.Itoa(server),
		"comparing versions: the API server is %s, this agent 1.%d; a node may be up to 3 minors older than the server, never newer", git, agent)
}

// skippable adds to a problem how to skip its check.
func (r *run) skippable(check string, problem *Error) error {
	if problem == nil || r.ignored(check) {
		return nil
	}
	problem.Next += "; or skip the check: --ignore " + check
	return problem
}
