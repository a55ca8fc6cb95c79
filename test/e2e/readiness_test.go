package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

// signs is a folder of the node that is mounted into the pods. There the pods leave files when
// something happens, and find files that make them unready.
const signs = "/var/lib/signs"

// talkers are two pods that answer with their names, even after SIGTERM. Each leaves a file when it
// gets SIGTERM and when its probe has failed.
func talkers() string {
	var all strings.Builder
	for _, name := range []string{"a", "b"} {
		fmt.Fprintf(&all, `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 12
  containers:
  - name: c
    image: %[2]s
    command: [bash, -c, "trap 'touch /signs/asked-%[1]s' TERM; mkdir /www; echo %[1]s >/www/index.html; httpd -p 8080 -h /www; while true; do sleep 0.02; done"]
    readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1, exec: {command: [sh, -c, "test ! -e /signs/unready-%[1]s || { test -e /signs/failed-%[1]s || touch /signs/failed-%[1]s; exit 1; }"]}}
    volumeMounts: [{name: signs, mountPath: /signs}]
  volumes: [{name: signs, hostPath: {path: %[3]s, type: DirectoryOrCreate}}]
---
`, name, bed.Busybox, signs)
	}
	return all.String() + `
apiVersion: v1
kind: Service
metadata: {name: talker}
spec:
  clusterIP: 10.96.77.79
  selector: {app: talker}
  ports: [{port: 80, targetPort: 8080}]
`
}

// TestLocalReadiness: a pod of this node that becomes unready or is being deleted gets no new
// connection from this node, however late the API hears of it. If there is no other pod it is still
// used, and it is used again once it is ready. No connection fails. NODEAGENT_ROUNDS is how often
// to measure, with the agent's own knowledge and without; default 1.
func TestLocalReadiness(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("NODEAGENT_ROUNDS"))
	if err != nil {
		rounds = 1
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+2*time.Duration(rounds)*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, bed.NodeAgent{})
	w := &caller{place: p, node: n, t: t}
	w.watch(ctx)
	if err := p.cluster.Apply(ctx, talkers()); err != nil {
		t.Fatal(err)
	}
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/a", "pod/b", "--timeout=180s")
	eventually(ctx, t, soon, "the Service", func() (bool, string) {
		got, err := ask(ctx, n.Dial, "10.96.77.79:80")
		return err == nil, fmt.Sprint(got, err)
	})
	defer w.call(ctx)()
	w.lands(ctx, "both are ready", "a", "b")
	w.withoutAPI(ctx)
	for _, mode := range []string{"on", "off"} {
		agent := n.Process("nodeagent")
		settings := "apiVersion: nodeagent.dev/v1alpha1\nkind: NodeAgentConfiguration\nlocalEndpoints: \"" + mode + "\"\n"
		if err := n.WriteFile("/etc/nodeagent/40-test.yaml", []byte(settings), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := agent.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		if err := proxySyncs(ctx, n); err != nil {
			t.Fatal(err)
		}
		var all times
		for range rounds {
			w.round(ctx, &all)
		}
		t.Logf("localEndpoints %s, until no new connection lands, from the failed probe: %s; from SIGTERM: %s. Until the API server's watch says so: %s; %s",
			mode, text(all.unready), text(all.ending), text(all.unreadyAPI), text(all.endingAPI))
		t.Logf("localEndpoints %s, until the first connection lands, from the API server's watch saying that it is ready again: %s", mode, text(all.back))
	}
	w.failures()
}

// caller calls the Service all the time and keeps track of who answered.
type caller struct {
	place
	node *bed.Node
	t    *testing.T

	mu     sync.Mutex
	last   map[string]time.Time // by pod: begin of the last connection that landed on it
	failed []string
	made   int
	ready  map[string]bool      // as the API's slices have it
	since  map[string]time.Time // when that was heard
}

// call makes a few hundred connections a second until it is stopped.
func (w *caller) call(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	w.last = map[string]time.Time{}
	var under sync.WaitGroup
	for range 2 {
		under.Go(func() {
			for ctx.Err() == nil {
				w.one(ctx)
				_ = sleep.For(ctx, 4*time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		under.Wait()
	}
}

func (w *caller) one(ctx context.Context) {
	begin := time.Now()
	name, err := ask(ctx, w.node.Dial, "10.96.77.79:80")
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	if err != nil {
		w.failed = append(w.failed, begin.Format("15:04:05.000 ")+err.Error())
		return
	}
	if begin.After(w.last[name]) {
		w.last[name] = begin
	}
}

// ask makes one HTTP request.
func ask(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) (string, error) {
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := dial(limit, "tcp4", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	last := ""
	for lines := bufio.NewScanner(conn); ; {
		if !lines.Scan() {
			if last != "a" && last != "b" {
				return "", fmt.Errorf("the answer ends with %q: %w", last, lines.Err())
			}
			return last, nil
		}
		last = lines.Text()
	}
}

func (w *caller) failures() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("%d connections, %d failed", w.made, len(w.failed))
	if len(w.failed) > 0 {
		w.t.Errorf("connections failed: %s", strings.Join(w.failed[:min(5, len(w.failed))], "; "))
	}
}

// landed returns when the last connection to the pod began.
func (w *caller) landed(pod string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[pod]
}

// lands waits until, for half a second, connections land on all of these pods and on no other.
func (w *caller) lands(ctx context.Context, when string, want ...string) {
	w.t.Helper()
	eventually(ctx, w.t, soon, when+": connections land on "+strings.Join(want, " and "), func() (bool, string) {
		begin := time.Now()
		_ = sleep.For(ctx, 500*time.Millisecond)
		var got []string
		for _, pod := range []string{"a", "b"} {
			if w.landed(pod).After(begin) {
				got = append(got, pod)
			}
		}
		return slices.Equal(got, want), fmt.Sprint(got)
	})
}

// watch keeps track of the pods' readiness in the EndpointSlices.
func (w *caller) watch(ctx context.Context) {
	w.ready, w.since = map[string]bool{}, map[string]time.Time{}
	events, err := w.client.DiscoveryV1().EndpointSlices("default").Watch(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=talker"})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for e := range events.ResultChan() {
			slice, ok := e.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				return
			}
			now, ready := time.Now(), map[string]bool{}
			for _, ep := range slice.Endpoints {
				ready[ep.TargetRef.Name] = ep.Conditions.Ready == nil || *ep.Conditions.Ready
			}
			w.mu.Lock()
			for _, pod := range []string{"a", "b"} {
				if w.ready[pod] != ready[pod] {
					w.ready[pod], w.since[pod] = ready[pod], now
				}
			}
			w.mu.Unlock()
		}
	}()
}

// says waits until the API reports the pod ready or not, and returns when that was.
func (w *caller) says(ctx context.Context, pod string, ready bool) time.Time {
	w.t.Helper()
	var at time.Time
	eventually(ctx, w.t, soon, "the EndpointSlice's word on "+pod, func() (bool, string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		at = w.since[pod]
		return w.ready[pod] == ready, fmt.Sprint(w.ready)
	})
	return at
}

// sign waits for a file of a pod and returns when it was created.
func (w *caller) sign(ctx context.Context, name string) time.Time {
	w.t.Helper()
	var at time.Time
	eventually(ctx, w.t, soon, "the sign "+name, func() (bool, string) {
		info, err := os.Stat(w.node.Path(signs + "/" + name))
		if err != nil {
			return false, err.Error()
		}
		at = info.ModTime()
		return true, ""
	})
	return at
}

func (w *caller) unready(pod string) {
	w.t.Helper()
	_ = os.Remove(w.node.Path(signs + "/failed-" + pod))
	if err := w.node.WriteFile(signs+"/unready-"+pod, nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *caller) readyAgain(pod string) {
	w.t.Helper()
	if err := os.Remove(w.node.Path(signs + "/unready-" + pod)); err != nil {
		w.t.Fatal(err)
	}
}

// withoutAPI freezes the controller that writes EndpointSlices, so that only the node's own
// knowledge counts.
func (w *caller) withoutAPI(ctx context.Context) {
	thaw, err := bed.Freeze(w.cluster.Process("kube-controller-manager"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.unready("a")
	failed := w.sign(ctx, "failed-a")
	w.lands(ctx, "a is not ready, and the API does not know", "b")
	w.t.Logf("while the API does not know: until no new connection lands, from the failed probe: %d ms", w.landed("a").Sub(failed).Milliseconds())
	w.unready("b")
	w.sign(ctx, "failed-b")
	w.lands(ctx, "none is ready, and the API does not know", "a", "b")
	w.readyAgain("b")
	w.lands(ctx, "b is ready again", "b")
	w.readyAgain("a")
	w.lands(ctx, "both are ready again", "a", "b")
	if err := thaw(); err != nil {
		w.t.Fatal(err)
	}
	// The controller catches up event by event: for a moment the API may have both pods unready. An
	// agent that starts just then has no knowledge of its own.
	thawed := time.Now()
	eventually(ctx, w.t, soon, "the API to have both ready, and nothing more to say for 3 s", func() (bool, string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		quiet := time.Since(thawed)
		for _, since := range w.since {
			quiet = min(quiet, time.Since(since))
		}
		return w.ready["a"] && w.ready["b"] && quiet > 3*time.Second, fmt.Sprint(w.ready, quiet)
	})
	w.lands(ctx, "the API has caught up", "a", "b")
}

// times are the measurements of all rounds.
type times struct{ unready, unreadyAPI, back, ending, endingAPI []time.Duration }

// round measures once, with pod a.
func (w *caller) round(ctx context.Context, all *times) {
	w.t.Helper()
	w.unready("a")
	failed := w.sign(ctx, "failed-a")
	heard := w.says(ctx, "a", false)
	w.lands(ctx, "a is not ready", "b")
	all.unready = append(all.unready, w.landed("a").Sub(failed))
	all.unreadyAPI = append(all.unreadyAPI, heard.Sub(failed))

	gone := time.Now()
	w.readyAgain("a")
	heard = w.says(ctx, "a", true)
	var first time.Time
	for first.Before(gone) {
		if err := sleep.For(ctx, time.Millisecond); err != nil {
			w.t.Fatal(err)
		}
		first = w.landed("a")
	}
	all.back = append(all.back, first.Sub(heard))
	w.lands(ctx, "a is ready again", "a", "b")

	_ = os.Remove(w.node.Path(signs + "/asked-a"))
	w.kubectl(ctx, w.t, "delete", "pod", "a", "--wait=false")
	asked := w.sign(ctx, "asked-a")
	heard = w.says(ctx, "a", false)
	w.lands(ctx, "a is to end", "b")
	all.ending = append(all.ending, w.landed("a").Sub(asked))
	all.endingAPI = append(all.endingAPI, heard.Sub(asked))
	w.kubectl(ctx, w.t, "wait", "--for=delete", "pod/a", "--timeout=180s")
	if err := w.cluster.Apply(ctx, talkers()); err != nil {
		w.t.Fatal(err)
	}
	w.kubectl(ctx, w.t, "wait", "--for=condition=Ready", "pod/a", "--timeout=180s")
	w.lands(ctx, "a is there again", "a", "b")
}

// text formats the median and the extremes.
func text(d []time.Duration) string {
	slices.Sort(d)
	ms := func(i int) string { return strconv.FormatInt(d[i].Milliseconds(), 10) }
	return fmt.Sprintf("%s ms (%s to %s)", ms(len(d)/2), ms(0), ms(len(d)-1))
}
