package agent

import (
	"context"
	"errors"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/nodeagent/nodeagent/pkg/node"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/node/measure"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// nodeObject is the Node at the API server and its lease.
type nodeObject struct {
	reporter *report.Node
	lease    *report.Lease
}

// newNodeObject makes what keeps them; facts of the runtime come from the pods half's if that is
// on.
func newNodeObject(s shared, m *machinery) (*nodeObject, error) {
	c := s.config
	f := facts.Config{Config: c, Version: version.Kubernetes(), Now: s.now, Sample: measure.Machine{Disk: c.Paths.Root}.Sample}
	if m != nil {
		f.Runtime, f.Network, f.Handlers = m, m.network, append([]string{""}, m.HandlerNames()...)
	}
	g, err := facts.NewGatherer(f)
	if err != nil {
		return nil, err
	}
	reporter, err := report.NewNode(report.NodeConfig{
		Client: s.clients.Status, Facts: g.Facts, Name: c.Node.Name, Register: c.Node.Register,
		UpdateEvery: c.Node.StatusUpdateFrequency, ReportEvery: c.Node.StatusReportFrequency, Clock: clock.RealClock{}, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	lease, err := report.NewLease(report.LeaseConfig{
		Client: s.clients.Lease, NodeName: c.Node.Name, Duration: c.Node.LeaseDuration, Clock: clock.RealClock{}, NodeUID: reporter.UID,
	})
	return &nodeObject{reporter, lease}, err
}

func (n *nodeObject) parts() []part {
	return []part{
		{"node reporter", n.reporter.Run, func() bool { return n.reporter.UID() != "" }},
		// the lease's owner is the Node
		{"node lease", after(n.reporter.Registered(), n.lease.Run), func() bool { return !n.lease.Renewed().IsZero() }},
	}
}

// newNodeLoop makes the node half's loop; it is idle without pods.
func newNodeLoop(s shared, reporter *report.Node, p *podsHalf) ([]part, error) {
	if p == nil {
		return nil, nil
	}
	l, err := node.New(node.Config{
		Health: p.machinery.health, Changed: reporter.Changed, Pods: p.ofNode, Allocatable: reporter.Allocatable, Cgroups: p.cgroups,
		LimitStorage: s.config.Reserved.LocalStorage, Storage: p.storage, Evict: func(uid types.UID, t podspec.Termination) { p.loop.End(uid, t) },
		Events: s.events, Now: s.now, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	return []part{{"node loop", l.Run, nil}}, s.registry.Register(l.Collector())
}

// ofNode are the pods as the node half sees them.
func (p *podsHalf) ofNode() []node.Pod {
	var pods []node.Pod
	for _, v := range p.loop.Snapshot() {
		if v.Pod != nil {
			pods = append(pods, node.Pod{Pod: v.WithStatus(), Static: v.Static, Ended: v.Refused != "" || v.Done})
		}
	}
	return pods
}

// storage measures what a pod takes of the node's disk.
func (p *podsHalf) storage(ctx context.Context, pod *corev1.Pod) (pressure.Usage, error) {
	f := measure.PodFiles{Volumes: map[string]string{}, Files: containerconfig.Writable(p.config.Paths.Root, pod.UID)}
	has, err := p.machinery.Get(ctx, pod.UID)
	unknown := []error{err}
	logs := containerconfig.LogDir(p.config.Paths.PodLogs, runtime.RefOf(pod))
	for _, c := range has.Containers {
		if has.Latest(c.Name).ID == c.ID {
			f.Containers = append(f.Containers, measure.ContainerFiles{Name: c.Name, ID: c.ID, Logs: filepath.Join(logs, c.Name)})
		}
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; pressure.Counted(v) {
			path, err := p.volumes.Path(pod, v.Name)
			if err != nil {
				unknown = append(unknown, err)
				continue
			}
			f.Volumes[v.Name] = path
		}
	}
	used, err := measure.Storage(ctx, p.machinery, f)
	return used, errors.Join(append(unknown, err)...)
}
