package containerd

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// containerd refuses labels that are too long, and protobuf refuses invalid UTF-8: the failed start
// would not be recorded.
func TestLabelsHoldAnyError(t *testing.T) {
	for _, text := range []string{strings.Repeat("é", 4096), "x" + strings.Repeat("é", 4096), "exec \xff\xfe: not found"} {
		got := labelText(labelStartError, text)
		if !utf8.ValidString(got) || len(got)+len(labelStartError) > maxLabel || len(got) < 10 {
			t.Errorf("%.20q… became %d bytes, valid %v", text, len(got), utf8.ValidString(got))
		}
	}
}

func TestOnlyRuncTakesItsOptions(t *testing.T) {
	r := &Runtime{c: Config{Handlers: map[string]Handler{
		"crun": {Binary: "crun"}, "gvisor": {Type: "io.containerd.runsc.v1"}, "wrong": {Type: "io.containerd.kata.v2", Binary: "kata"},
	}}}
	for name, c := range map[string]struct {
		shim    string // "": refused
		options bool
	}{
		"":       {"io.containerd.runc.v2", true},
		"crun":   {"io.containerd.runc.v2", true},
		"gvisor": {"io.containerd.runsc.v1", false},
		"wrong":  {},
		"none":   {},
	} {
		info, err := r.runtimeInfo(name)
		if (err != nil) != (c.shim == "") || info.Name != c.shim || (info.Options != nil) != c.options {
			t.Errorf("handler %q: shim %q, options %v, error %v", name, info.Name, info.Options, err)
		}
		if err != nil && !strings.Contains(err.Error(), "containerd.handlers") {
			t.Errorf("handler %q: %v names no field", name, err)
		}
	}
}
