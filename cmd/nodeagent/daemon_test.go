package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// daemonWith starts the daemon of a machine that has not joined: it ends when it finds no
// identity.
func daemonWith(t *testing.T, dir, root string) error {
	t.Helper()
	settings := strings.ReplaceAll(`
apiVersion: nodeagent.dev/v1alpha1
kind: NodeAgentConfiguration
paths: {runDir: DIR/run, containerLogsDir: DIR/log/containers, kubeconfig: DIR/none, bootstrapKubeconfig: DIR/none}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
podLogsDir: DIR/log/pods
staticPodPath: DIR/etc/manifests
oomScoreAdj: 0
`, "DIR", dir)
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	c := rootCommand()
	c.SetArgs([]string{"run", "--config", file, "--root-dir", root})
	c.SetOut(&bytes.Buffer{})
	return c.ExecuteContext(t.Context())
}

// The daemon makes missing folders and their parents before anything needs them.
func TestDaemonMakesItsFolders(t *testing.T) {
	dir := t.TempDir()
	err := daemonWith(t, dir, filepath.Join(dir, "not/there"))
	if err == nil || !strings.Contains(err.Error(), "identity") {
		t.Errorf("it ended with %v", err)
	}
	for _, name := range []string{"not/there", "not/there/pki", "run", "log/pods", "log/containers", "etc/manifests"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
			t.Errorf("%q was not made: %v", name, err)
		}
	}
}

// A folder that cannot be made is an error at once, with its name, its setting and a remedy.
func TestDaemonRefusesFolders(t *testing.T) {
	dir := t.TempDir()
	file, dangling := filepath.Join(dir, "file"), filepath.Join(dir, "dangling")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/no/such/disk", dangling); err != nil {
		t.Fatal(err)
	}
	for root, words := range map[string][]string{
		file:     {file, "rootDir", "configure another"},
		dangling: {dangling, "/no/such/disk", "rootDir", "mount its disk"},
	} {
		err := daemonWith(t, dir, root)
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v, want %q in it", root, err, word)
			}
		}
	}
}
