package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// plugin is a CNI plugin as a shell script: it records its calls, and answers as the files beside
// it say.
const plugin = `#!/bin/sh
d=$(dirname "$0")
in=$(cat)
echo "$CNI_COMMAND ns=$CNI_NETNS id=$CNI_CONTAINERID if=$CNI_IFNAME args=$CNI_ARGS in=$in" >> "$d/calls"
if [ -e "$d/fail-$CNI_COMMAND" ]; then echo '{"cniVersion":"1.1.0","code":50,"msg":"told to fail"}'; exit 1; fi
if [ -e "$d/hang-$CNI_COMMAND" ]; then (sleep 1000; echo late >> "$d/calls") & echo started > "$d/hung"; wait; fi
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.2.3/24","interface":1},{"address":"fd00::3/64","interface":1},{"address":"10.9.9.9/24","interface":0}]}';;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}';;
esac
`

const goodConf = `{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "fake", "capabilities": {"portMappings": true, "bandwidth": true}}]}`

type rig struct {
	*testing.T
	*Network
	dir string
	now atomic.Int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir()}
	r.write("bin/fake", plugin, 0o755)
	n, err := New(Config{
		ConfDir: r.path("net.d"), BinDirs: []string{r.path("nowhere"), r.path("bin")}, CacheDir: r.path("cache"),
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(r.now.Load(), 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Network = n
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string, mode os.FileMode) {
	r.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), mode); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) calls() []string {
	b, _ := os.ReadFile(r.path("bin/calls"))
	os.Remove(r.path("bin/calls"))
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func config() runtime.SandboxConfig {
	return runtime.SandboxConfig{
		Pod:   runtime.PodRef{UID: "u1", Namespace: "ns", Name: "p"},
		Ports: []runtime.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1"}, {ContainerPort: 81, Protocol: "tcp"}},

		IngressBandwidth: 1000,
	}
}

func TestStatusSaysWhatToDo(t *testing.T) {
	r := newRig(t)
	check := func(parts ...string) {
		t.Helper()
		err := r.Status(t.Context())
		var not *NotReadyError
		if !errors.Is(err, runtime.ErrNetworkNotReady) || !errors.As(err, &not) {
			t.Fatalf("got %v, want a NotReadyError", err)
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%q does not say %q", err, p)
			}
		}
	}
	check(r.path("net.d"), "no CNI configuration file")
	if _, err := r.Setup(t.Context(), "/x", "s1", config()); !errors.Is(err, runtime.ErrNetworkNotReady) {
		t.Errorf("Setup without a network: %v", err)
	}
	r.write("net.d/readme.txt", "x", 0o644)
	check("no CNI configuration file")
	r.write("net.d/10-bad.conflist", "{", 0o644)
	check("10-bad.conflist", "files 10-bad.conflist")
	r.write("net.d/20-worse.conf", `{"name": "x"}`, 0o644)
	check("files 10-bad.conflist, 20-worse.conf", "10-bad.conflist: ")
	r.write("net.d/10-bad.conflist", strings.Replace(goodConf, `"fake"`, `"absent"`, 1), 0o644)
	check(`plugin "absent" is not in `+r.path("nowhere")+":"+r.path("bin"), "--cni-bin-dir")
	r.write("bin/absent", plugin, 0o755) // installing the plugin is enough
	if err := r.Status(t.Context()); err != nil {
		t.Errorf("with the plugin: %v", err)
	}
	r.write("bin/fail-STATUS", "", 0o644)
	r.now.Add(60)
	check("CNI STATUS", "told to fail")
	os.Remove(r.path("bin/fail-STATUS"))
	if err := r.Status(t.Context()); err != nil {
		t.Errorf("a plugin that has recovered: %v", err)
	}
	os.Remove(r.path("net.d/10-bad.conflist"))
	check("20-worse.conf")
}

func TestSetupAndTeardown(t *testing.T) {
	r := newRig(t)
	r.write("net.d/10.conflist", goodConf, 0o644)
	r.write("ns", "", 0o644)
	addrs, err := r.Setup(t.Context(), r.path("ns"), "s1", config())
	if err != nil || fmt.Sprint(addrs) != "[10.1.2.3 fd00::3]" {
		t.Fatalf("got %v, %v", addrs, err)
	}
	calls := r.calls()
	if len(calls) != 1 || !strings.HasPrefix(calls[0], "ADD ns="+r.path("ns")+" id=s1 if=eth0 ") {
		t.Fatalf("calls %v", calls)
	}
	for _, part := range []string{
		"K8S_POD_NAMESPACE=ns", "K8S_POD_NAME=p", "K8S_POD_UID=u1", "K8S_POD_INFRA_CONTAINER_ID=s1", "IgnoreUnknown=1",
		`"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}]`,
		`"bandwidth":{"ingressRate":1000,"ingressBurst":4294967295}`,
	} {
		if !strings.Contains(calls[0], part) {
			t.Errorf("the plugin was not given %s: %s", part, calls[0])
		}
	}
	// Once more, as after a crash: Setup first removes what the first one left.
	if _, err := r.Setup(t.Context(), r.path("ns"), "s1", config()); err != nil {
		t.Fatal(err)
	}
	if got := verbs(r.calls()); !slices.Equal(got, []string{"DEL", "ADD"}) {
		t.Errorf("a second setup calls %v, want DEL and ADD", got)
	}
	// The network's configuration and the namespace are gone: DEL uses ADD's request.
	os.Remove(r.path("net.d/10.conflist"))
	os.Remove(r.path("ns"))
	if err := r.Teardown(t.Context(), r.path("ns"), "s1", config()); err != nil {
		t.Fatal(err)
	}
	calls = r.calls()
	if len(calls) != 1 || !strings.HasPrefix(calls[0], "DEL ns= id=s1 if=eth0 ") || !strings.Contains(calls[0], `"portMappings"`) || !strings.Contains(calls[0], `"prevResult"`) {
		t.Errorf("calls %v", calls)
	}
	if err := r.Teardown(t.Context(), r.path("ns"), "s1", config()); err != nil {
		t.Error(err)
	}
	if got := r.calls(); got[0] != "" {
		t.Errorf("a second teardown calls %v", got)
	}
}

func TestAFailedSetupIsUndoneUntilThatSucceeds(t *testing.T) {
	r := newRig(t)
	r.write("net.d/10.conflist", goodConf, 0o644)
	r.write("bin/fail-ADD", "", 0o644)
	r.write("bin/fail-DEL", "", 0o644)
	if _, err := r.Setup(t.Context(), "/x", "s1", config()); err == nil || !strings.Contains(err.Error(), "told to fail") || !strings.Contains(err.Error(), `network "net"`) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := r.Teardown(t.Context(), "/x", "s1", config()); err == nil {
			t.Error("a failed DEL is no error")
		}
	}
	// The network has changed meanwhile: DEL uses ADD's request.
	r.write("net.d/10.conflist", strings.Replace(goodConf, `"net"`, `"other"`, 1), 0o644)
	os.Remove(r.path("bin/fail-DEL"))
	if err := r.Teardown(t.Context(), "/x", "s1", config()); err != nil {
		t.Errorf("the next try: %v", err)
	}
	calls := r.calls()
	if got := verbs(calls); !slices.Equal(got, []string{"ADD", "DEL", "DEL", "DEL"}) {
		t.Errorf("calls %v", got)
	}
	if last := calls[len(calls)-1]; !strings.Contains(last, `"name":"net"`) || !strings.Contains(last, `"portMappings"`) || !strings.Contains(last, "id=s1") {
		t.Errorf("the last DEL was not what ADD was: %s", last)
	}
	os.Remove(r.path("bin/fail-ADD"))
	if _, err := r.Setup(t.Context(), "/x", "s1", config()); err != nil {
		t.Error(err)
	}
	if left, err := r.attachments("", ""); err != nil || len(left) != 1 || left[0].Network != "other" {
		t.Errorf("attachments %v, %v; want the new one alone", left, err)
	}
}

// The agent dies while plugins of ADD run: the next agent knows the sandbox and the request.
func TestASetupThatWasCutOffIsUndone(t *testing.T) {
	r := newRig(t)
	r.write("net.d/10.conflist", goodConf, 0o644)
	r.write("bin/hang-ADD", "", 0o644)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := r.Setup(ctx, "/run/pods/u1/net", "s1", config())
		ended <- err
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(r.path("bin/hung")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the plugin was not started")
		}
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled ADD: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("ADD does not end with its context")
	}
	next, err := New(r.c)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := next.Attached("/run/pods"); err != nil || all["s1"] != "/run/pods/u1/net" {
		t.Errorf("the next agent knows of %v, %v", all, err)
	}
	// even without the sandbox's id
	if err := next.Teardown(t.Context(), "/run/pods/u1/net", "another", config()); err != nil {
		t.Fatal(err)
	}
	if calls := r.calls(); !slices.Equal(verbs(calls), []string{"ADD", "DEL"}) || !strings.Contains(calls[1], "id=s1 ") {
		t.Errorf("calls %v, want a DEL of s1", calls)
	}
	if all, err := next.Attached("/run/pods"); err != nil || len(all) > 0 {
		t.Errorf("left: %v, %v", all, err)
	}
}

// There is no saved request: DEL uses the network in use.
func TestTeardownOfAnUnknownSandbox(t *testing.T) {
	r := newRig(t)
	if err := r.Teardown(t.Context(), "/x", "s1", config()); err != nil {
		t.Errorf("without a network: %v", err)
	}
	r.write("net.d/10.conflist", goodConf, 0o644)
	r.write("bin/fail-DEL", "", 0o644)
	if err := r.Teardown(t.Context(), "/x", "s1", config()); err == nil {
		t.Error("a failed DEL is no error")
	}
	os.Remove(r.path("bin/fail-DEL"))
	if err := r.Teardown(t.Context(), "/x", "s1", config()); err != nil {
		t.Error(err)
	}
	if calls := r.calls(); !slices.Equal(verbs(calls), []string{"DEL", "DEL"}) || !strings.Contains(calls[1], "ns= id=s1 ") {
		t.Errorf("calls %v", calls)
	}
}

func TestWatchSeesAFolderThatComesLater(t *testing.T) {
	r := newRig(t)
	changes := make(chan struct{}, 16)
	done := make(chan error, 1)
	go func() { done <- r.Watch(t.Context(), func() { changes <- struct{}{} }) }()
	r.write("net.d/10.conflist", goodConf, 0o644)
	wait := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(time.Minute):
			t.Fatalf("not told of %s", what)
		}
	}
	wait("the folder")
	r.write("net.d/10.conflist", goodConf+" ", 0o644)
	wait("the change")
}

func TestASinglePluginFileIsANetworkToo(t *testing.T) {
	r := newRig(t)
	r.write("net.d/10.conf", `{"cniVersion": "1.0.0", "name": "one", "type": "fake"}`, 0o644)
	if err := r.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func verbs(calls []string) []string {
	var v []string
	for _, c := range calls {
		verb, _, _ := strings.Cut(c, " ")
		v = append(v, verb)
	}
	return v
}
