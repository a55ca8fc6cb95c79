package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// newUML starts a cluster with a User-Mode Linux machine, installs the agent there like a user
// would, and joins it with `nodeagent join`, which starts it through systemd.
func newUML(ctx context.Context, t *testing.T) (place, *bed.UMLNode) {
	t.Helper()
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(ctx, "u1")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	out, err := u.InstallNodeAgent(ctx, bed.NodeAgent{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("installed and joined in %s\n%s", time.Since(begin).Round(time.Millisecond), out)
	p := place{NodeNet: u.NodeNet, cluster: c, client: clientOf(t, c), run: func(ctx context.Context, args ...string) (string, error) {
		return u.Output(ctx, args...)
	}}
	t.Cleanup(func() { keepJournal(t, u) })
	if err := c.WaitNodeReady(ctx, u.NodeNet, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	return p, u
}

// keepJournal prints the agent's log if the test has failed: the machine and its disk are removed
// afterwards.
func keepJournal(t *testing.T, u *bed.UMLNode) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := u.Output(ctx, "journalctl", "-u", "nodeagent", "--no-pager", "-o", "cat", "-n", "200")
	t.Logf("journal of nodeagent (%v):\n%s", err, out)
}

// TestLifeUML is TestLife on a machine with its own kernel, cgroup v2 and systemd, followed by a
// power cut.
func TestLifeUML(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	p, u := newUML(ctx, t)
	before := leftovers(ctx, t, p)
	life(ctx, t, p)

	// The limits are real: cgroup v2, below systemd's slices.
	if err := p.cluster.Apply(ctx, limited); err != nil {
		t.Fatal(err)
	}
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/limited", "--timeout=180s")
	if got := limits(ctx, t, p); got != "33554432 33554432 20000 100000 20000 100000" {
		t.Errorf("memory.max and cpu.max of pod and container are %q", got)
	}
	resize(ctx, t, p)
	p.kubectl(ctx, t, "delete", "pod", "limited", "client", "--grace-period=1")
	p.kubectl(ctx, t, "delete", "service", "web")
	nothingLeft(ctx, t, p, before)
	if got, err := p.run(ctx, "sh", "-c", "find /sys/fs/cgroup/kubepods.slice -name '*-pod*.slice' -o -name '*.scope'"); err != nil || got != "" {
		t.Errorf("cgroups are left: %q, %v", got, err)
	}
	if got := p.on(ctx, t, "systemctl", "is-active", "nodeagent"); strings.TrimSpace(got) != "active" {
		t.Errorf("the service is %q", got)
	}
	plug(ctx, t, p, u)
}

const limited = `
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + bed.Busybox + `
    command: [sleep, "100000"]
    resources: {limits: {memory: 32Mi, cpu: 200m}}
`

// limits returns memory.max and cpu.max of the pod limited and of its container.
func limits(ctx context.Context, t *testing.T, p place) string {
	t.Helper()
	const pod = "/sys/fs/cgroup/kubepods.slice/kubepods-pod*.slice"
	const container = pod + "/cri-containerd-*.scope"
	return strings.Join(strings.Fields(p.on(ctx, t, "sh", "-c", "cat "+pod+"/memory.max "+container+"/memory.max "+pod+"/cpu.max "+container+"/cpu.max")), " ")
}

// resize raises and then lowers the pod's limits, without a restart (KEP-1287).
func resize(ctx context.Context, t *testing.T, p place) {
	t.Helper()
	for _, to := range []struct{ cpu, memory, want string }{
		{"300m", "48Mi", "50331648 50331648 30000 100000 30000 100000"},
		{"100m", "40Mi", "41943040 41943040 10000 100000 10000 100000"},
	} {
		size := `{"cpu":"` + to.cpu + `","memory":"` + to.memory + `"}`
		p.kubectl(ctx, t, "patch", "pod", "limited", "--subresource=resize", "-p",
			`{"spec":{"containers":[{"name":"c","resources":{"requests":`+size+`,"limits":`+size+`}}]}}`)
		eventually(ctx, t, soon, "a pod of another size", func() (bool, string) {
			told := p.kubectl(ctx, t, "get", "pod", "limited", "-o",
				"jsonpath={.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}")
			got := limits(ctx, t, p)
			return told == to.cpu+" "+to.memory+" 0" && got == to.want, told + ": " + got
		})
	}
}

// plug runs a pod, cuts the machine's power, and expects the same pod to run again with everything
// it had except its processes.
func plug(ctx context.Context, t *testing.T, p place, u *bed.UMLNode) {
	t.Helper()
	if err := p.cluster.Apply(ctx, limited); err != nil {
		t.Fatal(err)
	}
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/limited", "--timeout=180s")
	if err := u.PullPlug(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := u.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, 4*time.Minute, "the pod after the power cut", func() (bool, string) {
		got := p.kubectl(ctx, t, "get", "pod", "limited", "-o",
			"jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready} {.status.phase}")
		return got == "1 true Running", got
	})
	t.Logf("the pod ran again %s after the power cut", time.Since(begin).Round(time.Millisecond))
	p.kubectl(ctx, t, "delete", "pod", "limited", "--grace-period=1")
}
