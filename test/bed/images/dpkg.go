package images

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// dpkgPackage is what a dpkg status file says of one installed package, as far as it matters here.
type dpkgPackage struct {
	name     string
	depends  [][]string // every group must be met, by any one of its names
	provides []string   // names that it stands in for
}

// dpkgStatus is the set of a tree's packages.
type dpkgStatus struct {
	packages map[string]dpkgPackage
	provides map[string][]string // virtual name → packages that provide it, sorted
}

// parseStatus reads /var/lib/dpkg/status. Fields it does not know are skipped; a stanza without a
// name is an error.
func parseStatus(r io.Reader) (dpkgStatus, error) {
	s := dpkgStatus{packages: map[string]dpkgPackage{}, provides: map[string][]string{}}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	p, line := dpkgPackage{}, 0
	for scan.Scan() {
		line++
		if strings.TrimSpace(scan.Text()) != "" {
			p.field(scan.Text())
			continue
		}
		if err := s.add(p); err != nil {
			return s, fmt.Errorf("reading package status before line %d: %w", line, err)
		}
		p = dpkgPackage{}
	}
	if err := scan.Err(); err != nil {
		return s, fmt.Errorf("reading package status: %w", err)
	}
	if err := s.add(p); err != nil {
		return s, fmt.Errorf("reading package status before line %d: %w", line, err)
	}
	for v := range s.provides {
		sort.Strings(s.provides[v])
	}
	return s, nil
}

// field takes one line of a package's stanza.
func (p *dpkgPackage) field(line string) {
	key, value, ok := strings.Cut(line, ":")
	if !ok || strings.HasPrefix(line, " ") {
		return
	}
	switch key {
	case "Package":
		p.name = strings.TrimSpace(value)
	case "Depends", "Pre-Depends":
		p.depends = append(p.depends, relations(value)...)
	case "Provides":
		p.provides = append(p.provides, slices.Concat(relations(value)...)...)
	}
}

// add takes a whole stanza; one without any field that matters is none.
func (s dpkgStatus) add(p dpkgPackage) error {
	if p.name == "" {
		if len(p.depends)+len(p.provides) > 0 {
			return errors.New("a package without a name")
		}
		return nil
	}
	s.packages[p.name] = p
	for _, v := range p.provides {
		s.provides[v] = append(s.provides[v], p.name)
	}
	return nil
}

// relations reads "a (>= 1), b:any | c" as [[a] [b c]].
func relations(s string) [][]string {
	var out [][]string
	for _, group := range strings.Split(s, ",") {
		var names []string
		for _, alt := range strings.Split(group, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alt), " ")
			name, _, _ = strings.Cut(name, "(")
			name, _, _ = strings.Cut(name, ":")
			if name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			out = append(out, names)
		}
	}
	return out
}

// closure returns the packages named and all that they need, as far as they are installed.
func (s dpkgStatus) closure(names ...string) map[string]bool {
	seen := map[string]bool{}
	queue := append([]string(nil), names...)
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		p, ok := s.packages[n]
		if !ok || seen[n] {
			continue
		}
		seen[n] = true
		for _, group := range p.depends {
			if dep := s.installed(group); dep != "" {
				queue = append(queue, dep)
			}
		}
	}
	return seen
}

// installed picks the first of the alternatives that is there, under its own name or as something
// that provides it.
func (s dpkgStatus) installed(group []string) string {
	for _, n := range group {
		if _, ok := s.packages[n]; ok {
			return n
		}
	}
	for _, n := range group {
		if by := s.provides[n]; len(by) > 0 {
			return by[0]
		}
	}
	return ""
}
