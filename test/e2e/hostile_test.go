package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// raceEnv makes TestHostile run longer: NODEAGENT_RACE=10m.
const raceEnv = "NODEAGENT_RACE"

// raceMemory is the most memory in KiB that the agent may take at any moment: about three times
// what it takes on a quiet node.
const raceMemory = 256 << 10

// linkedRoot is an agent whose root folder does not exist yet and lies behind a link.
type linkedRoot struct{ bed.NodeAgent }

// Start implements bed.Kind.
func (l linkedRoot) Start(ctx context.Context, n *bed.Node) error {
	if out, err := n.Output(ctx, "sh", "-c", "mkdir /var/lib/kubelet/disk && ln -s disk /var/lib/kubelet/link"); err != nil {
		return fmt.Errorf("making the disk: %w: %s", err, out)
	}
	return l.NodeAgent.Start(ctx, n)
}

const raceConfig = `
apiVersion: nodeagent.dev/v1alpha1
kind: NodeAgentConfiguration
paths: {rootDir: /var/lib/kubelet/link/new/root}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
`

// race is what the racing container does as root to everything that it can reach: endless files,
// devices, FIFOs, links out of the pod in the place of the node's files and folders, and folders
// that move while the node walks them.
const race = `
while :; do
  for f in /etc/hosts /etc/hostname /etc/resolv.conf /dev/termination-log; do
    truncate -s 4096G $f; chmod 6777 $f; chown 1000:1000 $f; chmod 0 $f; : > $f; mv $f /v/; ln -f $f /v/hard; ln -sfn /canary $f
  done
  for d in /v /m /h; do
    mkdir -p $d/a/b/c; echo x > $d/a/b/f; truncate -s 4096G $d/a/huge
    mv $d/a $d/old; ln -s /var/lib/kubelet/canary/dir $d/a; ln -s /var/lib/kubelet/canary/file $d/old/b/link
    mv $d/a $d/old/b/out; mkfifo $d/a; rm -f $d/a; ln -s ../../../../canary/dir $d/a; rm -f $d/a
    mknod $d/a c 5 0; rm -f $d/a; ln -s a $d/a; rm -f $d/a; mv $d/old $d/a; rm -rf $d/a
  done
  mkdir -p /etc/x/y; mv /etc/x /etc/z; ln -s /v /etc/x; rm -rf /etc/x /etc/z
done 2>/dev/null
`

// racer is a pod with that container and two that exit at once, so that the agent returns again and
// again.
func racer(name string) string {
	return strings.NewReplacer("NAME", name, "IMAGE", bed.Busybox, "RACE", strings.ReplaceAll(race, "\n", "\n      ")).Replace(`
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: racer}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 4242}
  containers:
  - name: racing
    image: IMAGE
    command:
    - sh
    - -c
    - |
      RACE
    volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}, {name: h, mountPath: /h}]
  - name: ending
    image: IMAGE
    command: [sh, -c, "truncate -s 4096G /etc/hosts /dev/termination-log; exit 1"]
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts: [{name: c, mountPath: /c}, {name: v, mountPath: /c/below}]
  - name: subpaths
    image: IMAGE
    command: [sh, -c, "ls /1 /2 /3; exit 1"]
    volumeMounts: [{name: v, mountPath: /1, subPath: a}, {name: m, mountPath: /2, subPath: a/b}, {name: h, mountPath: /3, subPath: a/b/c}]
  volumes:
  - {name: v, emptyDir: {sizeLimit: 1Gi}}
  - {name: m, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
  - {name: h, hostPath: {path: /var/lib/kubelet/shared, type: DirectoryOrCreate}}
  - {name: c, configMap: {name: racer}}
---
`)
}

// TestHostile lets containers race against the agent on every path that they can reach, while pods
// come and go. The agent neither ends nor grows, and touches nothing outside of the pods.
func TestHostile(t *testing.T) {
	length := 25 * time.Second
	if text := os.Getenv(raceEnv); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), length+12*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, linkedRoot{bed.NodeAgent{Config: raceConfig}})
	p.on(ctx, t, "sh", "-c", "mkdir -p /var/lib/kubelet/canary/dir/sub && cd /var/lib/kubelet/canary && "+
		"echo precious > file && chmod 600 file && echo precious > dir/a && echo precious > dir/sub/huge && chown -R 77:78 dir")
	p.kubectl(ctx, t, "create", "configmap", "racer", "--from-literal=key=value")
	p.kubectl(ctx, t, "run", "bystander", "--image="+bed.Busybox, "--restart=Never", "--", "sleep", "100000")
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/bystander", "--timeout=180s")
	bystander := func() string {
		return p.kubectl(ctx, t, "exec", "bystander", "--", "sh", "-c", "cat /etc/hosts /etc/hostname /etc/resolv.conf; ls -ln /etc/hosts /etc/hostname /etc/resolv.conf") +
			p.kubectl(ctx, t, "get", "pod", "bystander", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount} {.status.podIP}")
	}
	canary := func() string {
		return p.on(ctx, t, "sh", "-c", "cd /var/lib/kubelet/canary && find . -printf '%p %m %U %G %s %T@ %C@\\n' | sort && cat file dir/a dir/sub/huge")
	}
	agent := n.Process("nodeagent")
	pid, beforeCanary, beforeBystander := agent.PID(), canary(), bystander()

	const racers = 3
	for i := range racers {
		apply(ctx, t, p, racer(fmt.Sprintf("racer-%d", i)))
	}
	restarts, raced := 0, 0
	for i, until := 0, time.Now().Add(length); time.Now().Before(until); i++ {
		eventually(ctx, t, soon, "containers to end and start again", func() (bool, string) {
			if now := n.Process("nodeagent"); !now.Running() || now.PID() != pid {
				t.Fatal("the agent has ended")
			}
			if has := memory(t, pid, "VmRSS"); has > raceMemory {
				t.Fatalf("the agent has grown to %d KiB", has)
			}
			got := p.kubectl(ctx, t, "get", "pod", fmt.Sprintf("racer-%d", i%racers), "-o",
				`jsonpath={.status.containerStatuses[?(@.name=="ending")].restartCount} {.status.containerStatuses[?(@.name=="racing")].state.running.startedAt}`)
			count, running, _ := strings.Cut(got, " ")
			ended, _ := strconv.Atoi(count)
			if ended < 3 || running == "" {
				return false, got
			}
			restarts, raced = restarts+ended, raced+1
			return true, got
		})
		p.kubectl(ctx, t, "delete", "pod", fmt.Sprintf("racer-%d", i%racers), "--grace-period=1", "--timeout=180s")
		apply(ctx, t, p, racer(fmt.Sprintf("racer-%d", i%racers)))
	}
	p.kubectl(ctx, t, "delete", "pod", "-l", "app=racer", "--grace-period=1", "--timeout=180s")
	if now := canary(); now != beforeCanary {
		t.Errorf("files outside of the pods were\n%s\nand are\n%s", beforeCanary, now)
	}
	if now := bystander(); now != beforeBystander {
		t.Errorf("another pod was\n%s\nand is\n%s", beforeBystander, now)
	}
	if got := memory(t, pid, "VmHWM"); got > raceMemory {
		t.Errorf("the agent took up to %d KiB", got)
	}
	t.Logf("%d restarts in %d pods that raced, the agent took up to %d KiB", restarts, raced, memory(t, pid, "VmHWM"))
	p.kubectl(ctx, t, "delete", "pod", "bystander", "--grace-period=1", "--timeout=180s")
	eventually(ctx, t, soon, "nothing of the pods to be left", func() (bool, string) {
		left := p.on(ctx, t, "sh", "-c", "find /var/lib/kubelet/disk/new/root/pods -mindepth 1; grep -E ' /var/lib/kubelet/disk/.*/pods/' /proc/self/mountinfo || true")
		return left == "", left
	})
}

func apply(ctx context.Context, t *testing.T, p place, objects string) {
	t.Helper()
	if err := p.cluster.Apply(ctx, objects); err != nil {
		t.Fatal(err)
	}
}

// memory reads a line of a process's status in KiB.
func memory(t *testing.T, pid int, line string) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); name == line {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no %s", pid, line)
	return 0
}
