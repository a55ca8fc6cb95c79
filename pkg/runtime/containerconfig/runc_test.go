package containerconfig_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
)

// inspect prints, from inside, what the spec asked for. Each line is "what: value".
const inspect = `
echo "user: $(id -u):$(id -g)" "groups: $(id -G)"
echo "pwd: $(pwd)"
echo "env: $GREETING $PATH"
echo "caps: $(grep CapBnd /proc/self/status | cut -f2)"
echo "nnp: $(grep NoNewPrivs /proc/self/status | cut -f2) seccomp: $(grep Seccomp: /proc/self/status | cut -f2)"
echo "root: $(touch /x 2>/dev/null && echo writable || echo read-only)"
echo "config: $(cat /etc/app.conf)"
echo "scratch: $(echo hello > /data/f && cat /data/f)"
echo "config is: $(touch /conf/x 2>/dev/null && echo writable || echo read-only)"
echo "hosts: $(grep web-0 /etc/hosts)"
echo "resolv: $(head -n 1 /etc/resolv.conf)"
echo "hostname: $(cat /etc/hostname)"
echo "shm: $(grep ' /dev/shm ' /proc/mounts | cut -d' ' -f3) $(touch /dev/shm/x && echo writable)"
echo "kcore: $(head -c 1 /proc/kcore 2>/dev/null | wc -c) sysrq: $(echo h 2>/dev/null >/proc/sysrq-trigger && echo open || echo shut)"
echo "mount: $(mount -t tmpfs none /data 2>/dev/null && echo allowed || echo refused)"
echo "memory: $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max)"
echo "pid: $$"
echo -n "last words" > /dev/termination-log
`

// A real runc runs the spec that is built. The test needs runc (NODEAGENT_RUNC, or in PATH) and a
// static busybox in PATH.
func TestRunc(t *testing.T) {
	runc, shell := program(t, os.Getenv("NODEAGENT_RUNC"), "runc"), program(t, "", "busybox")
	b := newBed(t)
	b.cgroups.Root = fmt.Sprintf("/nodeagent-test-%d", os.Getpid())
	b.users["1000:3000"] = runtime.User{UID: 1000, GID: 3000, Groups: []uint32{50}}
	node, _, err := containerconfig.Detect()
	must(t, err)
	b.node.Spec = node
	b.labels.off = true
	b.node.Spec.CPUQuotaPeriod = 100000
	b.objects.PutConfigMap(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"}, Data: map[string]string{"app.conf": "x=1"}})
	t.Cleanup(func() { removeCgroups(t, b.cgroups.Layout) })

	for name, c := range map[string]struct{ security, want string }{
		"confined": {
			`{runAsUser: 1000, runAsGroup: 3000, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}`,
			"user: 1000:3000 groups: 3000 50 2000|caps: 0000000000000000|nnp: 1 seccomp: 2|root: read-only|kcore: 0 sysrq: shut|mount: refused",
		},
		"usual":      {`{}`, "user: 0:0 groups: 0 2000|caps: 00000000a80425fb|nnp: 0 seccomp: 0|root: writable|kcore: 0 sysrq: shut|mount: refused"},
		"privileged": {`{privileged: true}`, "user: 0:0 groups: 0 2000|nnp: 0 seccomp: 0|root: writable|mount: allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u-`+name+`}
spec:
  securityContext: {fsGroup: 2000}
  volumes: [{name: scratch, emptyDir: {}}, {name: conf, configMap: {name: conf}}]
  containers:
  - name: app
    image: app
    workingDir: /data
    command: [/bin/sh, -c]
    args: [""]
    terminationMessagePath: /dev/termination-log
    env: [{name: WHO, value: world}, {name: GREETING, value: "hello-$(WHO)"}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts:
    - {name: scratch, mountPath: /data, subPath: sub}
    - {name: conf, mountPath: /etc/app.conf, subPath: app.conf}
    - {name: conf, mountPath: /conf}
    securityContext: `+c.security+"\n")
			// a single "$" may be meant for the pod spec's own expansion
			pod.Spec.Containers[0].Args[0] = strings.ReplaceAll(inspect, "$", "$$")
			built, err := b.start(t, pod, "app", 0)
			must(t, err)
			got := run(t, runc, shell, built.Spec, built.ID())
			common := "pwd: /data|env: hello-world /usr/local/sbin:|config: x=1|scratch: hello|config is: read-only|" +
				"hosts: 10.244.0.7\tweb-0|resolv: search shop.svc.cluster.local|hostname: web-0|shm: tmpfs writable|memory: 67108864|pid: 1\n"
			for _, line := range strings.Split(c.want+"|"+common, "|") {
				if !strings.Contains(got, line) {
					t.Errorf("no %q in:\n%s", line, got)
				}
			}
			if words, err := os.ReadFile(built.MessagePath); err != nil || string(words) != "last words" {
				t.Errorf("the termination message: %q, %v", words, err)
			}
		})
	}
}

func program(t *testing.T, path, name string) string {
	t.Helper()
	if path == "" {
		var err error
		if path, err = exec.LookPath(name); err != nil {
			t.Skipf("no %s: %v", name, err)
		}
	}
	return path
}

// run makes a bundle with a shell as its root and returns the container's output.
func run(t *testing.T, runc, shell string, spec *specs.Spec, id string) string {
	t.Helper()
	bundle := t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "data", "conf"} {
		must(t, os.MkdirAll(filepath.Join(bundle, "rootfs", dir), 0o755))
	}
	program, err := os.ReadFile(shell)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "rootfs/bin/busybox"), program, 0o755))
	for _, name := range []string{"sh", "id", "grep", "cut", "touch", "cat", "head", "wc", "mount", "pwd"} {
		must(t, os.Symlink("busybox", filepath.Join(bundle, "rootfs/bin", name)))
	}
	text, err := json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600))
	cmd := exec.Command(runc, "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, id)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("runc: %v\n%s", err, out)
	}
	return string(out)
}

func removeCgroups(t *testing.T, l cgroup.Layout) {
	t.Helper()
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, err := filepath.Glob(hierarchy + l.Root)
		must(t, err)
		for _, root := range roots {
			out, err := exec.Command("find", root, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").CombinedOutput()
			if err != nil {
				t.Errorf("removing %q: %v\n%s", root, err, out)
			}
		}
	}
}
