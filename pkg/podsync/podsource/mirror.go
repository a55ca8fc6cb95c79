package podsource

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// ObserveMirror implements Mirrors.
func (s *Static) ObserveMirror(pod *corev1.Pod, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	if have := s.mirrors[full]; gone {
		if have == nil || have.UID != pod.UID {
			return
		}
		delete(s.mirrors, full)
	} else {
		s.mirrors[full] = pod
	}
	uid := types.UID(pod.Annotations[MirrorAnnotation])
	if static := s.pods[uid]; static != nil {
		s.tell(static, false)
	} else if l, leaving := s.leaving[uid]; leaving {
		s.tell(l.pod, true)
	}
	s.poke()
}

// observeNew takes a mirror pod that was just created, unless the watch was quicker and may have a
// newer one.
func (s *Static) observeNew(pod *corev1.Pod) {
	s.mu.Lock()
	known := s.mirrors[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] != nil
	s.mu.Unlock()
	if !known {
		s.ObserveMirror(pod, false)
	}
}

// MirrorsListed implements Mirrors.
func (s *Static) MirrorsListed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = true
	s.poke()
}

// firstMirrorRetry is the first pause after a failure; it doubles with each further one. It is
// short because caches of the API server may not yet know a Node that was just registered or a
// mirror pod that was just deleted; such failures are not logged.
const firstMirrorRetry = 20 * time.Millisecond

// keepMirrors creates and deletes mirror pods until ctx ends.
func (s *Static) keepMirrors(ctx context.Context) {
	if s.config.Client == nil {
		return
	}
	backoff := firstMirrorRetry
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		next := s.config.Interval
		if err := s.syncMirrors(ctx); err != nil && ctx.Err() == nil {
			if backoff >= time.Second {
				s.config.Log.Warn("Mirror pods cannot be brought up to date", "err", err, "retry", backoff)
			}
			next = min(backoff, s.config.Interval)
			backoff = min(2*backoff, s.config.Interval)
			if sleep.For(ctx, next) != nil { // wakes do not shorten it
				return
			}
			s.poke()
		} else {
			backoff = firstMirrorRetry
		}
		timer.Reset(next)
	}
}

// mirrorStep is one change of a mirror pod.
type mirrorStep struct {
	remove *corev1.Pod // mirror to delete
	create *corev1.Pod // static pod that needs a mirror
}

// syncMirrors makes all changes that are due, and returns their first error.
func (s *Static) syncMirrors(ctx context.Context) error {
	var first error
	for _, step := range s.mirrorSteps() {
		var err error
		if step.remove != nil {
			err = s.removeMirror(ctx, step.remove)
		} else {
			err = s.createMirror(ctx, step.create)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// mirrorSteps compares static pods with mirrors. While a pod ends, its mirror stays for the status
// writer to finish. A mirror that somebody else deletes is removed and created again.
func (s *Static) mirrorSteps() []mirrorStep {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listed || !s.synced.Load() {
		return nil
	}
	now := s.config.Now()
	maps.DeleteFunc(s.leaving, func(_ types.UID, l leaver) bool { return now.After(l.until) })
	var steps []mirrorStep
	for _, mirror := range s.mirrors {
		uid := types.UID(mirror.Annotations[MirrorAnnotation])
		_, ending := s.leaving[uid]
		if mirror.DeletionTimestamp != nil || s.pods[uid] == nil && !ending {
			steps = append(steps, mirrorStep{remove: mirror})
		}
	}
	for _, pod := range s.pods {
		if s.mirrors[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] == nil {
			steps = append(steps, mirrorStep{create: pod})
		}
	}
	return steps
}

func (s *Static) removeMirror(ctx context.Context, mirror *corev1.Pod) error {
	err := s.config.Client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(mirror.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting the mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	s.ObserveMirror(mirror, true)
	return nil
}

// createMirror creates the mirror of a static pod. The API server requires the Node as its
// controller owner, so that it is deleted with the Node.
func (s *Static) createMirror(ctx context.Context, pod *corev1.Pod) error {
	node, err := s.config.Client.CoreV1().Nodes().Get(ctx, s.config.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the node %q to own the mirror pod %s/%s: %w", s.config.NodeName, pod.Namespace, pod.Name, err)
	}
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion = "", ""
	mirror.Annotations[MirrorAnnotation] = string(pod.UID)
	mirror.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: ptr.To(true),
	}}
	made, err := s.config.Client.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("creating the mirror pod %s/%s: another pod has that name: %w", mirror.Namespace, mirror.Name, err)
	case err != nil:
		return fmt.Errorf("creating the mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	s.observeNew(made)
	return nil
}
