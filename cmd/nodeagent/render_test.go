package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/internal/golden"
)

// TestRender runs the verb as the command line does. The file args of an archive has one argument
// per line; every other input is a file in the working folder.
func TestRender(t *testing.T) {
	golden.Run(t, "testdata/render-*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		back, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		t.Chdir(t.TempDir())
		defer func() { _ = os.Chdir(back) }() // golden writes there with -update
		scratch := t.TempDir()
		t.Setenv("TMPDIR", scratch)
		for name, data := range files {
			if name != "args" && !strings.HasPrefix(name, "want") {
				if err := os.WriteFile(name, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		var out, errs bytes.Buffer
		root := rootCommand()
		root.SetArgs(append([]string{"render"}, strings.Split(strings.TrimSpace(string(files["args"])), "\n")...))
		root.SetIn(bytes.NewReader(files["stdin.yaml"]))
		root.SetOut(&out)
		root.SetErr(&errs)
		if err := root.ExecuteContext(context.Background()); err != nil {
			errs.WriteString("error: " + err.Error() + "\n")
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 || strings.Contains(out.String()+errs.String(), scratch) {
			t.Errorf("the scratch folder was left (%v, %v), or is in the output", left, err)
		}
		got := map[string][]byte{}
		for name, text := range map[string]string{"want.out": out.String(), "want.err": errs.String()} {
			if text != "" {
				got[name] = []byte(text)
			}
		}
		return got
	})
}

// TestRenderHelp: the help of each verb has an example.
func TestRenderHelp(t *testing.T) {
	for _, args := range []string{"render", "render pod", "render services"} {
		var out bytes.Buffer
		root := rootCommand()
		root.SetArgs(append(strings.Fields(args), "--help"))
		root.SetOut(&out)
		if err := root.ExecuteContext(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "Examples:\n") || !strings.Contains(out.String(), "nodeagent "+args) {
			t.Errorf("%s --help:\n%s", args, out.String())
		}
	}
}
