package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestLife is the product's main job on a node with this machine's kernel: from the first pod until
// nothing is left.
func TestLife(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, bed.NodeAgent{})
	before := leftovers(ctx, t, p)
	life(ctx, t, p)
	greedy(ctx, t, p)
	completed(ctx, t, p)
	p.kubectl(ctx, t, "delete", "pod", "client", "--grace-period=1")
	p.kubectl(ctx, t, "delete", "service", "web")
	nothingLeft(ctx, t, p, before)

	mainThread(ctx, t, p, n)

	// The agent's own pages and commands agree.
	if got := p.on(ctx, t, "curl", "-s", "http://127.0.0.1:10248/healthz"); got != "ok" {
		t.Errorf("healthz says %q", got)
	}
	if got := p.on(ctx, t, "nodeagent", "status"); !strings.Contains(got, "Ready") || !strings.Contains(got, "iptables IPv4") {
		t.Errorf("status says\n%s", got)
	}
	metrics := p.kubectl(ctx, t, "get", "--raw", "/api/v1/nodes/"+p.Name+"/proxy/metrics")
	var sandboxes int
	if _, after, found := strings.Cut(metrics, `kubelet_runtime_operations_total{operation_type="run_podsandbox"} `); found {
		_, _ = fmt.Sscan(after, &sandboxes)
	}
	if sandboxes < 8 { // one a pod, and one more for each start that had to be tried again
		t.Errorf("%d sandboxes were started, want at least 8", sandboxes)
	}
	for _, want := range []string{
		"kubelet_running_pods 0\n", `kubelet_node_name{node="n1"} 1`,
		"process_resident_memory_bytes", "rest_client_requests_total",
		`kubelet_evictions{eviction_signal="emptydirfs.limit"} 1`, `kubelet_evictions{eviction_signal="ephemeralpodfs.limit"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	proxied := p.on(ctx, t, "curl", "-s", "http://127.0.0.1:10249/metrics")
	for _, want := range []string{"kubeproxy_sync_proxy_rules_duration_seconds_count", "process_resident_memory_bytes", "rest_client_requests_total"} {
		if !strings.Contains(proxied, want) {
			t.Errorf("the proxy's metrics lack %q", want)
		}
	}
	if strings.Contains(metrics, "kubeproxy_") || strings.Contains(proxied, "kubelet_") {
		t.Error("series of one half are on the port of the other: whoever collects both has them twice")
	}
	cgroups, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/memory", n.Cgroup(), "kubepods", "*", "pod*"))
	if err != nil || len(cgroups) > 0 {
		t.Errorf("cgroups are left: %v, %v", cgroups, err)
	}
	if os.Getenv("KEEP") != "" {
		time.Sleep(time.Hour)
	}
}

// mainThread checks that the agent has not used its main thread to create its pods' namespaces,
// since /proc/net shows the main thread's, and that it still reports the node, for which it has to
// find the node's address again.
func mainThread(ctx context.Context, t *testing.T, p place, n *bed.Node) {
	t.Helper()
	pid := n.Process("nodeagent").PID()
	var thread, node unix.Stat_t
	if err := errors.Join(
		unix.Stat(fmt.Sprintf("/proc/%d/task/%d/ns/net", pid, pid), &thread), unix.Stat(filepath.Join("/run/netns", n.NetNS()), &node),
	); err != nil {
		t.Fatal(err)
	}
	if thread.Ino != node.Ino {
		t.Errorf("the agent's main thread is in network namespace %d, the node's is %d", thread.Ino, node.Ino)
	}
	p.on(ctx, t, "ctr", "-n", "k8s.io", "images", "tag", bed.Busybox, "example.com/another-name:1")
	eventually(ctx, t, soon, "the node's status to tell of a new image", func() (bool, string) {
		got := p.kubectl(ctx, t, "get", "node", p.Name, "-o", "jsonpath={.status.images[*].names} {.status.addresses[*].address}")
		return strings.Contains(got, "example.com/another-name:1") && strings.Contains(got, p.IP.String()), got
	})
}

// life runs a Deployment of three behind a Service, uses it in every way, and scales it to zero.
func life(ctx context.Context, t *testing.T, p place) {
	t.Helper()
	if err := p.cluster.Apply(ctx, web(3)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.kubectl(ctx, t, "rollout", "status", "deployment/web", "--timeout=240s")
	t.Logf("a Deployment of 3 was rolled out in %s", time.Since(begin).Round(time.Millisecond))
	p.kubectl(ctx, t, "run", "client", "--image="+bed.Busybox, "--restart=Never", "--", "sleep", "100000")
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/client", "--timeout=180s")

	ip := p.kubectl(ctx, t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	for who, get := range map[string]func(address string) (string, error){
		"the node": func(a string) (string, error) { return p.run(ctx, "curl", "-s", "-m", "5", "http://"+a) },
		"a pod": func(a string) (string, error) {
			return p.cluster.Kubectl(ctx, "exec", "client", "--", "timeout", "5", "wget", "-qO-", "http://"+a)
		},
	} {
		for _, address := range []string{ip, p.IP.String() + ":30080"} {
			eventually(ctx, t, soon, "asking "+address+" from "+who, func() (bool, string) {
				got, err := get(address)
				if err != nil {
					return false, err.Error()
				}
				return strings.HasPrefix(got, "hello from web-"), got
			})
		}
	}
	eventually(ctx, t, soon, "asking the Service by name", func() (bool, string) {
		got, err := p.cluster.Kubectl(ctx, "exec", "client", "--", "timeout", "5", "wget", "-qO-", "http://web.default.svc.cluster.local")
		return err == nil && strings.HasPrefix(got, "hello"), fmt.Sprint(got, err)
	})
	eventually(ctx, t, soon, "the log of the Deployment", func() (bool, string) {
		got := p.kubectl(ctx, t, "logs", "deployment/web", "--tail=1")
		return got == "serving\n", got
	})
	if got := p.kubectl(ctx, t, "exec", "deployment/web", "--", "cat", "/config/greeting"); got != "hello" {
		t.Errorf("the ConfigMap in the volume is %q", got)
	}
	if out, err := p.cluster.Kubectl(ctx, "exec", "client", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error()+out, "7") {
		t.Errorf("exit code 7 came back as %v", err)
	}
	if got := p.kubectl(ctx, t, "exec", "client", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"); got != "default" {
		t.Errorf("the service account's namespace is %q", got)
	}
	p.kubectl(ctx, t, "scale", "deployment/web", "--replicas=0")
	begin = time.Now()
	p.kubectl(ctx, t, "wait", "--for=delete", "pod", "-l", "app=web", "--timeout=180s")
	t.Logf("3 pods were gone %s after scaling to 0", time.Since(begin).Round(time.Millisecond))
}

// greedy runs pods that use more disk than they may, beside one without limits.
func greedy(ctx context.Context, t *testing.T, p place) {
	t.Helper()
	const pod = `apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "dd if=/dev/zero of=FILE bs=1M count=4; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}], resources: {limits: {LIMIT}}}
  volumes: [{name: v, emptyDir: {sizeLimit: SIZE}}]
---
`
	var all strings.Builder
	for name, c := range map[string][3]string{
		"greedy-volume": {"/v/file", "memory: 64Mi", "2Mi"}, "greedy-layer": {"/file", "ephemeral-storage: 2Mi", "1Gi"},
		"greedy-hosts": {"/etc/hosts", "ephemeral-storage: 2Mi", "1Gi"},
	} {
		all.WriteString(strings.NewReplacer("NAME", name, "IMAGE", bed.Busybox, "FILE", c[0], "LIMIT", c[1], "SIZE", c[2]).Replace(pod))
	}
	if err := p.cluster.Apply(ctx, all.String()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"greedy-volume": `Failed Evicted Usage of EmptyDir volume "v" exceeds the limit "2Mi". `,
		"greedy-layer":  "Failed Evicted Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
		"greedy-hosts":  "Failed Evicted Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
	} {
		eventually(ctx, t, soon, "evicting "+name, func() (bool, string) {
			got := p.kubectl(ctx, t, "get", "pod", name, "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}")
			return got == want, got
		})
	}
	if got := p.kubectl(ctx, t, "get", "pod", "client", "-o", "jsonpath={.status.phase}"); got != "Running" {
		t.Errorf("a pod without limits is %q", got)
	}
	p.kubectl(ctx, t, "delete", "pod", "greedy-volume", "greedy-layer", "greedy-hosts")
}

// completed runs a pod to completion and expects that it then holds nothing on the machine but its
// log, although it is not deleted.
func completed(ctx context.Context, t *testing.T, p place) {
	t.Helper()
	if err := p.cluster.Apply(ctx, `
apiVersion: v1
kind: Pod
metadata: {name: completed}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: `+bed.Busybox+`
    command: [sh, -c, "echo done; dd if=/dev/zero of=/v/file bs=1M count=4"]
    volumeMounts: [{name: v, mountPath: /v, subPath: sub}]
  volumes: [{name: v, emptyDir: {medium: Memory}}]
`); err != nil {
		t.Fatal(err)
	}
	p.kubectl(ctx, t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/completed", "--timeout=180s")
	uid := p.kubectl(ctx, t, "get", "pod", "completed", "-o", "jsonpath={.metadata.uid}")
	eventually(ctx, t, soon, "a completed pod to give back what it held", func() (bool, string) {
		held := p.on(ctx, t, "sh", "-c", "grep "+uid+" /proc/self/mountinfo; find /sys/fs/cgroup -name '*"+uid+"*' -o -name '*"+strings.ReplaceAll(uid, "-", "_")+"*'; true")
		return held == "", held
	})
	// The two outputs are two pipes: which of them is read first is anybody's guess.
	if got := p.kubectl(ctx, t, "logs", "completed"); !strings.Contains(got, "done\n") || !strings.Contains(got, "4+0 records out\n") {
		t.Errorf("its log is %q", got)
	}
	p.kubectl(ctx, t, "delete", "pod", "completed")
}

// leftovers lists what a node holds of pods and rules, as sorted lines that can be compared.
func leftovers(ctx context.Context, t *testing.T, p place) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"ctr -n k8s.io containers ls -q",
		"ctr -n k8s.io tasks ls -q",
		"ctr -n k8s.io snapshots ls | awk '$3 == \"Active\" {print $1}'",
		"find /var/lib/kubelet/pods -mindepth 1",
		"find /run/nodeagent/pods /run/nodeagent/io -mindepth 1",
		"find /var/log/pods /var/log/containers -mindepth 1",
		"ls /var/lib/cni/networks/*/ | grep '^10[.]'",
		"awk '{print $5}' /proc/self/mountinfo | grep -E 'kubelet/pods|nodeagent/pods'",
		"iptables-save | grep -E '^:KUBE-(SVC|SEP|EXT|SVL|FW)-' | cut -d' ' -f1",
	} {
		out, err := p.run(ctx, "sh", "-c", "("+command+") 2>/dev/null | sort || true")
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		all.WriteString("# " + command + "\n" + out)
	}
	return all.String()
}

// nothingLeft waits until the node is as before: a pod's removal is reported a moment before its
// last file is gone.
func nothingLeft(ctx context.Context, t *testing.T, p place, before string) {
	t.Helper()
	eventually(ctx, t, soon, "cleaning up", func() (bool, string) {
		now := leftovers(ctx, t, p)
		return now == before, "\n--- before\n" + before + "--- after\n" + now
	})
}
