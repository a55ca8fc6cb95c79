package elements

import (
	"maps"
	"slices"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Render makes the whole table for a snapshot. The same input gives the same table.
func Render(s *snapshot.Snapshot, o Options) *Table { return NewRenderer(o).Render(s) }

// Renderer is Render with a memory: what a port adds is not made again if the
// port is the same pointer as last time and the node has not changed. It is
// used by one goroutine.
type Renderer struct {
	o       Options
	options nodeOptions // of fixed and memo
	fixed   *fixedPart
	memo    map[*snapshot.Port]*fragment
	round   uint64
	left    map[*snapshot.Port]string // ports not to be rendered, and why
}

// NewRenderer returns a Renderer without memories.
func NewRenderer(o Options) *Renderer {
	return &Renderer{o: o, memo: map[*snapshot.Port]*fragment{}, left: map[*snapshot.Port]string{}}
}

// fragment is what one port adds to the table.
type fragment struct {
	chains   []*Chain
	sets     []*Set
	elements []placed
	round    uint64 // of the Renderer, when it was last used
}

// placed is an element and the name of its set.
type placed struct {
	set string
	Element
}

// LeaveOut has a port rendered no more, until it changes; why is kept for LeftOut.
func (r *Renderer) LeaveOut(p *snapshot.Port, why string) { r.left[p] = why }

// LeftOut are the ports that are not rendered, and why.
func (r *Renderer) LeftOut() map[*snapshot.Port]string { return r.left }

// RenderAll has every port rendered again.
func (r *Renderer) RenderAll() { clear(r.left) }

// Render is like the function Render.
func (r *Renderer) Render(s *snapshot.Snapshot) *Table {
	options := r.o.at(s)
	if r.fixed == nil || !options.equal(r.options) {
		clear(r.memo)
		r.options, r.fixed = options, &fixedPart{family: options.ip(), chains: fixed(options), sets: fixedSets(options)}
	}
	r.round++
	out := &Table{fixed: r.fixed, fragments: make([]*fragment, 0, len(r.memo)+1)}
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			f := r.fragment(p)
			if r.left[p] == "" {
				out.fragments = append(out.fragments, f)
			}
		}
	}
	maps.DeleteFunc(r.memo, func(_ *snapshot.Port, f *fragment) bool { return f.round != r.round })
	maps.DeleteFunc(r.left, func(p *snapshot.Port, _ string) bool { return r.memo[p] == nil })
	return out
}

func (r *Renderer) fragment(p *snapshot.Port) *fragment {
	f := r.memo[p]
	if f == nil {
		f = renderPort(p, r.options)
		f.chains, f.elements = slices.Clip(f.chains), slices.Clip(f.elements)
		r.memo[p] = f
	}
	f.round = r.round
	return f
}
