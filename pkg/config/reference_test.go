package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
)

const reference = "../../docs/configuration.md"

// TestReference compares docs/configuration.md with the code: every field of the three documents
// with its type, default, and effect or what happens instead; every flag with the field that it
// sets. What a field does stands in withoutEffect, in testdata/effects.txt, or else in the help of
// its flag.
func TestReference(t *testing.T) {
	t.Parallel()
	c, _, err := Resolve(nil, &Flags{}, testHost())
	if err != nil {
		t.Fatal(err)
	}
	effects := readEffects(t)
	var fields []string
	for _, kind := range []string{kindKubelet, kindProxy, kindAgent} {
		text := tableOf(t, kind, &c, effects)
		golden.Section(t, reference, kind, text)
		fields = append(fields, text)
	}
	for path := range effects {
		t.Errorf("testdata/effects.txt: %s has an effect there, but is no field, or stands in withoutEffect", path)
	}
	if n := strings.Count(strings.Join(fields, ""), "\n| `"); n != len(everyField()) {
		t.Errorf("%d rows for %d fields", n, len(everyField()))
	}
	golden.Section(t, reference, "flags", flagsTable(flagTable()))
	golden.Section(t, reference, "flags of kubelet", flagsTable(kubeletFlagTable()))
}

// readEffects reads testdata/effects.txt: a field and what it does, one a line.
func readEffects(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/effects.txt")
	if err != nil {
		t.Fatal(err)
	}
	effects := map[string]string{}
	for line := range strings.Lines(string(text)) {
		path, effect, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		if !ok || effects[path] != "" {
			t.Errorf("testdata/effects.txt: want one line \"field: effect\" a field, have %q", line)
		}
		effects[path] = effect
	}
	return effects
}

// tableOf writes a row for each field of a kind, and takes the effects that it uses.
func tableOf(t *testing.T, kind string, c *Config, effects map[string]string) string {
	t.Helper()
	var d documents
	into, _, _ := d.target(kind)
	defaults := map[string]any{kindKubelet: c.KubeletConfiguration(), kindProxy: c.KubeProxyConfiguration(), kindAgent: agentDefaults(c)}[kind]
	var b strings.Builder
	b.WriteString("| field | type | default | effect |\n|---|---|---|---|\n")
	for _, path := range fieldPaths(kind, reflect.TypeOf(into).Elem()) {
		_, field, _ := strings.Cut(path, ".")
		typ := fieldType(reflect.TypeOf(into).Elem(), strings.Split(field, "."))
		standard := valueAt(reflect.ValueOf(defaults).Elem(), field)
		effect := effectOf(path, standard, effects)
		if why, ok := withoutEffect(path); ok {
			effect, standard = "*None*: "+why, "–"
		}
		if effect == "" {
			t.Errorf("%s: say in testdata/effects.txt what it does, or in withoutEffect what happens instead", path)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", field, typeColumn(typ), standard, escaped(effect))
	}
	return b.String()
}

// effectOf is the line of effects, which is taken out; else the help of the field's flag, without
// the default where the column names it.
func effectOf(path, standard string, effects map[string]string) string {
	if effect, ok := effects[path]; ok {
		delete(effects, path)
		return effect
	}
	for _, f := range flagTable() {
		if f.path == path && standard == "–" {
			return f.usage
		}
		if f.path == path {
			text, rest, _ := strings.Cut(f.usage, " (default ")
			_, rest, _ = strings.Cut(rest, ")")
			return text + rest
		}
	}
	return ""
}

// agentDefaults is the NodeAgentConfiguration that gives a configuration.
func agentDefaults(c *Config) *NodeAgentConfiguration {
	on := map[bool]Switch{true: "on", false: "off"}
	return &NodeAgentConfiguration{
		TypeMeta: metav1.TypeMeta{Kind: kindAgent, APIVersion: APIVersion},
		Pods:     on[c.Pods.Enabled], Proxier: on[c.Proxy.Mode != ProxyOff], LocalEndpoints: on[c.Proxy.LocalEndpoints],
		NodeLabels:                       c.Node.Labels,
		ImagePullProgressDeadline:        &metav1.Duration{Duration: c.Images.PullProgressDeadline},
		MaxParallelImagePullsPerRegistry: small(c.Images.MaxPerRegistry),
		Containerd: ContainerdConfiguration{
			Address: c.Runtime.Address, Namespace: c.Runtime.Namespace, Snapshotter: c.Runtime.Snapshotter,
			RegistryConfigDir: c.Runtime.RegistryConfigDir, AllowForeignPods: c.Runtime.AllowForeignPods,
		},
		CNI: CNIConfiguration{BinDirs: c.Network.CNIBinDirs, ConfDir: c.Network.CNIConfDir, CacheDir: c.Network.CNICacheDir},
		Paths: PathsConfiguration{
			Kubeconfig: c.Identity.Kubeconfig, BootstrapKubeconfig: c.Identity.BootstrapKubeconfig, RootDir: c.Paths.Root, RunDir: c.Paths.Run,
			CertDir: c.Identity.CertDir, ClusterCA: c.Identity.ClusterCA, ContainerLogsDir: c.Paths.ContainerLogs, StatusSocket: c.Paths.StatusSocket,
		},
	}
}

// TestAgentDefaultsAreTrue: the defaults that the reference names are those of the code.
func TestAgentDefaultsAreTrue(t *testing.T) {
	t.Parallel()
	c, _, err := Resolve(nil, &Flags{}, testHost())
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(agentDefaults(&c))
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Resolve([]Source{{"defaults", text}}, &Flags{}, testHost())
	if err != nil || !slices.Equal(Lines(c), Lines(again)) {
		t.Errorf("the defaults as a document give another configuration (error %v):\n%s", err, text)
	}
}

// valueAt writes the value of a field.
func valueAt(v reflect.Value, field string) string {
	for name := range strings.SplitSeq(field, ".") {
		for v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return "–"
		}
		fields := map[string]reflect.Value{}
		collect(v, fields)
		v = fields[name]
	}
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Type() == reflect.TypeFor[*bool]() {
		return "`false`"
	}
	var text string
	switch x := v.Interface().(type) {
	case metav1.Duration:
		text = shortDuration(x.Duration)
	case []string:
		text = strings.Join(x, ", ")
	case map[string]string:
		var pairs []string
		for _, key := range slices.Sorted(maps.Keys(x)) {
			pairs = append(pairs, key+": "+x[key])
		}
		text = strings.Join(pairs, ", ")
	default:
		if v.Kind() != reflect.Slice && v.Kind() != reflect.Map && v.Kind() != reflect.Pointer {
			text = fmt.Sprint(x)
		}
	}
	if text == "" {
		return "–"
	}
	return "`" + escaped(text) + "`"
}

// shortDuration writes 5m, not 5m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func typeColumn(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[Switch]():
		return "on, off"
	case reflect.TypeFor[[]corev1.Taint]():
		return "list of taints"
	}
	if strings.HasSuffix(t.Name(), "Duration") {
		return "duration"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true, false"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "map"
	case reflect.Struct:
		return "quantity"
	}
	return "number"
}

func flagsTable(defs []flagDef) string {
	sort.SliceStable(defs, func(i, j int) bool { return defs[i].name < defs[j].name })
	var b strings.Builder
	b.WriteString("| flag | sets |\n|---|---|\n")
	for _, def := range defs {
		kind, field, _ := strings.Cut(def.path, ".")
		fmt.Fprintf(&b, "| `--%s` | `%s` of %s |\n", def.name, field, kind)
	}
	return b.String()
}

func escaped(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
