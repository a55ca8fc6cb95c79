package images

import (
	"bufio"
	"fmt"
	"io"
	"sort"
	"strings"
)

// dpkgPackage is what a dpkg status file says of one installed package, as far as it matters here.
type dpkgPackage struct {
	name    string
	depends [][]string // every group must be met, by any one of its names
}

// dpkgStatus is the set of a tree's packages.
type dpkgStatus struct {
	packages map[string]dpkgPackage
	provides map[string][]string // virtual name → packages that provide it, sorted
}

// parseStatus reads /var/lib/dpkg/status. Fields it does not know are skipped; a stanza without a name is an error.
func parseStatus(r io.Reader) (dpkgStatus, error) {
	s := dpkgStatus{packages: map[string]dpkgPackage{}, provides: map[string][]string{}}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	p, line := dpkgPackage{}, 0
	var provides []string
	flush := func() error {
		if p.name == "" && len(p.depends)+len(provides) > 0 {
			return fmt.Errorf("reading package status before line %d: a package without a name", line)
		}
		if p.name != "" {
			s.packages[p.name] = p
			for _, v := range provides {
				s.provides[v] = append(s.provides[v], p.name)
			}
		}
		p, provides = dpkgPackage{}, nil
		return nil
	}
	for scan.Scan() {
		line++
		text := scan.Text()
		if strings.TrimSpace(text) == "" {
			if err := flush(); err != nil {
				return s, err
			}
			continue
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok || strings.HasPrefix(text, " ") {
			continue
		}
		switch key {
		case "Package":
			p.name = strings.TrimSpace(value)
		case "Depends", "Pre-Depends":
			p.depends = append(p.depends, relations(value)...)
		case "Provides":
			for _, g := range relations(value) {
				provides = append(provides, g...)
			}
		}
	}
	if err := scan.Err(); err != nil {
		return s, fmt.Errorf("reading package status: %w", err)
	}
	if err := flush(); err != nil {
		return s, err
	}
	for v := range s.provides {
		sort.Strings(s.provides[v])
	}
	return s, nil
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

// installed picks the first of the alternatives that is there, under its own name or as something that provides it.
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
