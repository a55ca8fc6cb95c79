package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/keyed"
)

// PodsConfig is what a Pods reporter is made from.
type PodsConfig struct {
	Client kubernetes.Interface // without limits
	// QPS and Burst limit the requests, so that an API server that comes back does not get the
	// statuses of all pods of all nodes at once. A QPS of 0 or less means no limit.
	QPS   float32
	Burst int
	Now   func() time.Time
	Log   *slog.Logger
	// Parallel bounds the concurrent requests; 0 means 16.
	Parallel int
}

// Pods patches the status of pods. Each pod has a worker; a newer status replaces one that was not
// sent yet. A patch is the difference from the newest object known, so no read precedes it.
type Pods struct {
	config PodsConfig
	group  *keyed.Group[types.UID]
	slots  chan struct{}
	limit  *rate.Limiter

	mu   sync.Mutex
	pods map[types.UID]*podReport
}

// podReport is what is known of one pod. The mutex guards it; workers copy it out.
type podReport struct {
	base   *corev1.Pod // newest object known: handed over by Put, or the answer to a patch
	want   corev1.PodStatus
	finish bool // delete the object after the patch
}

// NewPods makes a reporter; it does nothing until Run.
func NewPods(c PodsConfig) (*Pods, error) {
	if c.Parallel <= 0 {
		c.Parallel = 16
	}
	p := &Pods{config: c, slots: make(chan struct{}, c.Parallel), limit: rate.NewLimiter(rate.Inf, 0), pods: map[types.UID]*podReport{}}
	if c.QPS > 0 {
		p.limit = rate.NewLimiter(rate.Limit(c.QPS), max(1, c.Burst))
	}
	group, err := keyed.New(keyed.Config[types.UID]{
		Step: p.step, Now: c.Now, MinPause: 200 * time.Millisecond, MaxPause: 10 * time.Second,
		OnError: func(uid types.UID, err error) { c.Log.Error("Pod status was not reported", "uid", uid, "err", err) },
	})
	if err != nil {
		return nil, err
	}
	p.group = group
	return p, nil
}

// Run reports until ctx ends.
func (p *Pods) Run(ctx context.Context) error { return p.group.Run(ctx) }

// Put hands over the newest status of pod, which is the newest object that the caller knows. It
// never waits.
func (p *Pods) Put(pod *corev1.Pod, s corev1.PodStatus) { p.put(pod, s, false) }

// Hold does nothing: such a status is not for the API server yet.
func (p *Pods) Hold(*corev1.Pod, corev1.PodStatus) {}

// Finish hands over the last status of a pod that is being deleted and that the host holds nothing
// of any more. The status is patched, then the object is deleted without grace.
func (p *Pods) Finish(pod *corev1.Pod, s corev1.PodStatus) { p.put(pod, s, true) }

func (p *Pods) put(pod *corev1.Pod, s corev1.PodStatus, finish bool) {
	p.mu.Lock()
	r := p.pods[pod.UID]
	if r == nil {
		r = &podReport{base: pod}
		p.pods[pod.UID] = r
	}
	if newer(pod, r.base) {
		r.base = pod
	}
	r.want, r.finish = s, finish || r.finish
	p.mu.Unlock()
	p.group.Wake(pod.UID)
}

// Forget drops a pod whose object is gone.
func (p *Pods) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, uid)
}

// step sends one pod's newest status.
func (p *Pods) step(ctx context.Context, uid types.UID) (keyed.Next, error) {
	p.mu.Lock()
	r := p.pods[uid]
	if r == nil {
		p.mu.Unlock()
		return keyed.Next{Done: true}, nil
	}
	p.mu.Unlock()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return keyed.Next{}, ctx.Err()
	}
	p.mu.Lock()
	now := *r // the newest, after the wait
	p.mu.Unlock()
	gone, err := p.patch(ctx, r, now)
	if err == nil && !gone && now.finish {
		gone, err = p.remove(ctx, r, now.base)
	}
	if err != nil {
		return keyed.Next{}, err
	}
	if gone {
		p.Forget(uid)
	}
	// Nothing is left to send; the next Put starts a worker anew.
	return keyed.Next{Done: true}, nil
}

// patch sends the difference between the newest object and the wanted status; gone says that the
// object no longer exists.
func (p *Pods) patch(ctx context.Context, r *podReport, now podReport) (gone bool, err error) {
	patch, err := statusPatch(now.base, now.want)
	if err != nil || patch == nil {
		return false, err
	}
	b := now.base
	if err := p.limit.Wait(ctx); err != nil {
		return false, fmt.Errorf("waiting for kubeAPIQPS: %w", err)
	}
	answer, err := p.config.Client.CoreV1().Pods(b.Namespace).Patch(ctx, b.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsConflict(err): // the patch names the UID: another pod may have the name by now
		return p.isReplaced(ctx, r, b, err)
	case err != nil:
		return false, fmt.Errorf("patching the status of pod %q: %w", b.Namespace+"/"+b.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if newer(answer, r.base) {
		r.base = answer
	}
	return false, nil
}

// isReplaced asks, after a conflict, whether the pod's object is gone. If it is not, the conflict
// is one with another writer, and an error: it is tried again, from the newest object.
func (p *Pods) isReplaced(ctx context.Context, r *podReport, pod *corev1.Pod, conflict error) (bool, error) {
	live, err := p.config.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && live.UID != pod.UID:
		return true, nil
	case err != nil:
		return false, fmt.Errorf("asking which pod is called %q after a conflict: %w", pod.Namespace+"/"+pod.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if newer(live, r.base) {
		r.base = live
	}
	return false, fmt.Errorf("writing pod %q while another does: %w", pod.Namespace+"/"+pod.Name, conflict)
}

// remove deletes the object of a pod that has ended.
func (p *Pods) remove(ctx context.Context, r *podReport, pod *corev1.Pod) (gone bool, err error) {
	if err := p.limit.Wait(ctx); err != nil {
		return false, fmt.Errorf("waiting for kubeAPIQPS: %w", err)
	}
	zero := int64(0)
	err = p.config.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsConflict(err):
		return p.isReplaced(ctx, r, pod, err)
	}
	return false, fmt.Errorf("deleting pod %q, which has ended: %w", pod.Namespace+"/"+pod.Name, err)
}

// statusPatch is the strategic merge patch of the status alone, bound to the pod's UID; nil when
// there is no difference.
func statusPatch(pod *corev1.Pod, want corev1.PodStatus) ([]byte, error) {
	// Compared as JSON, in which times have whole seconds as the API server keeps them.
	was, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return nil, fmt.Errorf("encoding the status of pod %q: %w", pod.Name, err)
	}
	is, err := json.Marshal(corev1.Pod{Status: want})
	if err != nil {
		return nil, fmt.Errorf("encoding the status of pod %q: %w", pod.Name, err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(was, is, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("making a patch of pod %q: %w", pod.Name, err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var body map[string]any
	if err := json.Unmarshal(patch, &body); err != nil {
		return nil, fmt.Errorf("reading a patch of pod %q back: %w", pod.Name, err)
	}
	body["metadata"] = map[string]any{"uid": pod.UID}
	return json.Marshal(body)
}

// newer says whether a is a later version of an object than b; versions that cannot be compared
// count as newer.
func newer(a, b *corev1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order >= 0
}
