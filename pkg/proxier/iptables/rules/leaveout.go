package rules

import (
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// LeaveOut has a port rendered no more, until it changes; why is kept for LeftOut.
func (r *Renderer) LeaveOut(p *snapshot.Port, why string) { r.left[p] = why }

// LeftOut are the ports that are not rendered, and why.
func (r *Renderer) LeftOut() map[*snapshot.Port]string { return r.left }

// RenderAll has every port rendered again.
func (r *Renderer) RenderAll() { clear(r.left) }

// Named is the rendered port that a text names: a rule, or an error message about one. A port is
// named by one of its chains, or by the comment of its rules in chains that all Services share.
// nil: none is named.
func (r *Renderer) Named(text string, s *snapshot.Snapshot) *snapshot.Port {
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			if r.left[p] == "" && r.fragment(p).isNamed(text, p) {
				return p
			}
		}
	}
	return nil
}

func (f *fragment) isNamed(text string, p *snapshot.Port) bool {
	if slices.ContainsFunc(f.chains, func(c Chain) bool { return strings.Contains(text, c.Name) }) {
		return true
	}
	return strings.Contains(text, `"`+p.Name+` `) || strings.Contains(text, `"`+p.Name+`"`)
}
