package payload_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/payload"
)

func show(f filetree.Files) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		lines = append(lines, fmt.Sprintf("%s %o %s", name, f[name].Mode, f[name].Data))
	}
	return strings.Join(lines, "; ")
}

func TestConfigMap(t *testing.T) {
	object := &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": []byte("3")}}
	own := int32(0o400)
	for name, c := range map[string]struct {
		source payload.Source
		want   string
	}{
		"all":              {payload.Source{Mode: 0o644}, "a 644 1; b 644 2; c 644 3"},
		"items":            {payload.Source{Mode: 0o644, Items: []corev1.KeyToPath{{Key: "c", Path: "x/y"}, {Key: "a", Path: "a", Mode: &own}}}, "a 400 1; x/y 644 3"},
		"missing":          {payload.Source{Kind: "configmap", Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}, "error: configmap references non-existent key: z"},
		"missing optional": {payload.Source{Optional: true, Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}, ""},
		"leads out":        {payload.Source{Items: []corev1.KeyToPath{{Key: "a", Path: "x/../../a"}}}, `error: path "x/../../a" is not allowed in a volume: it must be relative and may not start with ".."`},
	} {
		files, err := payload.Keys(payload.ConfigMap(object), c.source)
		got := show(files)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
