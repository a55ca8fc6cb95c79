package ocispec_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// An archive has pod.yaml, optionally in.yaml (what is resolved: the fields of ocispec.Input, for
// every container of the pod), and optionally show (one JSON path a line: only these parts are
// printed). want has one section a container.
func TestBuild(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var pod corev1.Pod
		must(t, yaml.UnmarshalStrict(files["pod.yaml"], &pod))
		var out strings.Builder
		for i := range pod.Spec.Containers {
			in := base()
			in.Pod, in.Container = &pod, &pod.Spec.Containers[i]
			in.Seccomp.RuntimeDefault = capsOnly
			must(t, yaml.UnmarshalStrict(files["in.yaml"], &in))
			fmt.Fprintf(&out, "# %s\n", in.Container.Name)
			spec, err := ocispec.Build(in)
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
				continue
			}
			show(t, &out, spec, strings.Fields(string(files["show"])))
		}
		return map[string][]byte{"want": []byte(out.String())}
	})
}

func base() ocispec.Input {
	return ocispec.Input{
		ID:          "c0ffee",
		SandboxID:   "5a4d",
		Image:       imagespec.ImageConfig{Cmd: []string{"/app"}},
		CgroupsPath: "/kubepods/besteffort/poduid-1/c0ffee",
		Hostname:    "web-0",
		Namespaces:  runtime.Namespaces{Net: "/run/pods/uid-1/net", IPC: "/run/pods/uid-1/ipc", UTS: "/run/pods/uid-1/uts"},
		Node:        ocispec.Node{MemoryCapacity: 8 << 30, MinOOMScoreAdj: -1000, CPUQuotaPeriod: 100000},
	}
}

// capsOnly is a fake default profile that shows what it was derived from.
func capsOnly(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{fmt.Sprintf("for_%d_capabilities", len(spec.Process.Capabilities.Bounding))}, Action: specs.ActAllow},
	}}, nil
}

// show prints the requested parts: a scalar on its line, a list with one element a line.
func show(t *testing.T, out *strings.Builder, spec *specs.Spec, paths []string) {
	t.Helper()
	raw, err := json.Marshal(spec)
	must(t, err)
	if len(paths) == 0 {
		text, err := json.MarshalIndent(spec, "", "  ")
		must(t, err)
		out.Write(append(text, '\n'))
		return
	}
	var tree any
	must(t, json.Unmarshal(raw, &tree))
	for _, path := range paths {
		at := tree
		for _, key := range strings.Split(path, ".") {
			m, _ := at.(map[string]any)
			at = m[key]
		}
		list, isList := at.([]any)
		if !isList {
			fmt.Fprintf(out, "%s: %s\n", path, compact(t, at))
			continue
		}
		fmt.Fprintf(out, "%s:\n", path)
		for _, e := range list {
			fmt.Fprintf(out, "  %s\n", compact(t, e))
		}
	}
}

func compact(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
