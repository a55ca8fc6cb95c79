package nftables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// runTimeout bounds one run of nft: large tables take seconds.
const runTimeout = 2 * time.Minute

// run has the kernel take operations, all or none. With an error comes the port whose operation
// was refused; nil: unknown.
func (b *Backend) run(ctx context.Context, ops []elements.Op) (*snapshot.Port, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	tx := b.c.Tool.NewTransaction()
	for _, op := range ops {
		apply(tx, op)
	}
	if err := b.c.Tool.Run(ctx, tx); err != nil {
		return culprit(err, ops), hung(ctx, err)
	}
	return nil, nil
}

// hung adds to the error of a run that nft was killed because ctx ran out of time.
func hung(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("running nft: it hangs, and was killed: %w", err)
	}
	return err
}

// apply puts one operation into a transaction, as one line of nft's input.
func apply(tx *knftables.Transaction, op elements.Op) {
	object := object(op)
	switch op.Verb {
	case elements.Add:
		tx.Add(object)
	case elements.Delete:
		tx.Delete(object)
	case elements.Flush:
		tx.Flush(object)
	}
}

func object(op elements.Op) knftables.Object {
	switch {
	case op.Rule != nil:
		return &knftables.Rule{Chain: op.Rule.Chain.Name, Rule: op.Rule.Text}
	case op.Entry != nil:
		return element(op.Entry)
	case op.Set != nil:
		return set(op.Set)
	case op.Chain != nil:
		return chain(op.Chain, op.Verb)
	}
	return &knftables.Table{Comment: knftables.PtrTo("rules for kube-proxy")}
}

func chain(c *elements.Chain, verb elements.Verb) *knftables.Chain {
	out := &knftables.Chain{Name: c.Name}
	if c.Base != nil && verb == elements.Add {
		out.Type = knftables.PtrTo(knftables.BaseChainType(c.Base.Type))
		out.Hook = knftables.PtrTo(knftables.BaseChainHook(c.Base.Hook))
		out.Priority = knftables.PtrTo(knftables.BaseChainPriority(strconv.Itoa(c.Base.Priority)))
	}
	return out
}

func set(s *elements.Set) knftables.Object {
	var comment *string
	if s.Comment != "" {
		comment = &s.Comment
	}
	if s.Map {
		return &knftables.Map{Name: s.Name, Type: s.Type + " : verdict", Comment: comment}
	}
	out := &knftables.Set{Name: s.Name, Type: s.Type, Comment: comment}
	if s.Interval {
		out.Flags = append(out.Flags, knftables.IntervalFlag)
	}
	if s.Timeout > 0 {
		out.Flags = append(out.Flags, knftables.DynamicFlag, knftables.TimeoutFlag)
		out.Timeout = &s.Timeout
	}
	return out
}

func element(e *elements.Entry) *knftables.Element {
	out := &knftables.Element{Key: strings.Split(e.Key, " . ")}
	if e.Comment != "" {
		out.Comment = &e.Comment
	}
	if e.Set.Map {
		out.Map, out.Value = e.Set.Name, []string{e.Verdict}
	} else {
		out.Set = e.Set.Name
	}
	return out
}

// line finds what nft says of where an error is: "/dev/stdin:12:1-20: Error: …".
func line(said string) (n int, ok bool) {
	m := regexp.MustCompile(`(?m)^[^:\n]+:(\d+):\d+(?:-\d+)?: Error`).FindStringSubmatch(said)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// culprit is the port that the refused operation belongs to; nil: unknown.
func culprit(err error, ops []elements.Op) *snapshot.Port {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil // nft did not come to an end
	}
	n, ok := line(err.Error())
	if !ok || n < 1 || n > len(ops) {
		return nil
	}
	return owner(ops[n-1])
}

func owner(op elements.Op) *snapshot.Port {
	switch {
	case op.Verb != elements.Add:
		return nil
	case op.Rule != nil:
		return op.Rule.Chain.Port
	case op.Entry != nil:
		return op.Entry.Port
	case op.Set != nil:
		return op.Set.Port
	case op.Chain != nil:
		return op.Chain.Port
	}
	return nil
}

func family(f corev1.IPFamily) knftables.Family {
	if f == corev1.IPv6Protocol {
		return knftables.IPv6Family
	}
	return knftables.IPv4Family
}
