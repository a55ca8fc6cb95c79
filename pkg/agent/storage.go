package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/storagelimit"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
)

// storageEvery is how often pods with limits of their disk usage are measured, as in kubelet;
// storageShare is how many times as long as the measuring took is waited at least, for folders of
// millions of files. storageLimit is how long one pod may take, which could go on filling a folder
// while it is measured.
const (
	storageEvery = 10 * time.Second
	storageShare = 20
	storageLimit = 30 * time.Second
	storageMost  = 10 * time.Minute // between two measurements
)

// limitStorage ends pods that have used more of the disk than their spec allows. Those without
// limits cost nothing.
func (p *pods) limitStorage(ctx context.Context) error {
	if !p.config.Reserved.LocalStorage {
		return nil
	}
	wait := time.NewTimer(storageEvery)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		began := p.agent.options.Now()
		for _, v := range p.loop.Snapshot() {
			if !living(v) || !storagelimit.Limited(v.Pod, v.Static) {
				continue
			}
			used, err := p.storageOf(ctx, v.Pod)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil { // what could be measured counts
				p.log.Warn("A pod's disk usage is not fully known", "pod", v.Namespace+"/"+v.Name, "uid", v.UID, "err", err)
			}
			p.checkStorage(v, used)
		}
		wait.Reset(min(storageMost, max(storageEvery, storageShare*p.agent.options.Now().Sub(began))))
	}
}

// living says that the pod is neither ending nor over.
func living(v podsync.View) bool {
	return v.Pod != nil && v.Pod.DeletionTimestamp == nil && v.Refused == "" && !v.Done &&
		!podspec.Terminal(v.Status.Phase)
}

func (p *pods) checkStorage(v podsync.View, used storagelimit.Usage) {
	limit, end := storagelimit.Check(v.Pod, used)
	if end == nil {
		return
	}
	p.log.Info("Evicting a pod that uses more of the disk than it may", "pod", v.Namespace+"/"+v.Name, "uid", v.UID, "message", end.Message)
	p.agent.events.Event(v.Pod, corev1.EventTypeWarning, end.Reason, end.Message)
	p.evictions.WithLabelValues(limit).Inc()
	p.loop.End(v.UID, *end)
}

// storageOf measures a pod. With an error, it is what could be measured.
func (p *pods) storageOf(ctx context.Context, pod *corev1.Pod) (storagelimit.Usage, error) {
	used := storagelimit.Usage{Containers: map[string]int64{}, Volumes: map[string]int64{}}
	var errs []error
	take := func(into map[string]int64, name string, bytes int64, err error) {
		into[name] += bytes
		if err != nil {
			errs = append(errs, fmt.Errorf("of %q: %w", name, err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storageLimit)
	defer cancel()
	have := p.have(pod.UID)
	logs := containerconfig.LogDir(p.config.Paths.PodLogs, runtime.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID})
	for _, c := range have.Containers {
		if have.Latest(c.Name).ID != c.ID {
			continue
		}
		bytes, err := p.runtime.WritableBytes(ctx, c.ID)
		take(used.Containers, c.Name, bytes, err)
		bytes, err = hostfs.DiskUsage(ctx, filepath.Join(logs, c.Name))
		take(used.Containers, c.Name, bytes, err)
	}
	for _, path := range containerconfig.Writable(p.config.Paths.Root, pod.UID) {
		bytes, err := hostfs.DiskUsage(ctx, path)
		used.Files += bytes
		if err != nil {
			errs = append(errs, err)
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !storagelimit.Counted(v) {
			continue
		}
		path, err := p.volumes.Path(pod, v.Name)
		if err != nil {
			take(used.Volumes, v.Name, 0, err)
			continue
		}
		bytes, err := hostfs.DiskUsage(ctx, path)
		take(used.Volumes, v.Name, bytes, err)
	}
	return used, errors.Join(errs...)
}

// newEvictions is kubelet's metric of pods that it ended for their use of resources.
func newEvictions(r *prometheus.Registry) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_evictions", Help: "Pods ended for their use of resources, by what they used too much of.",
	}, []string{"eviction_signal"})
	r.MustRegister(c)
	return c
}
