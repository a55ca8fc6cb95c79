package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/node/measure"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/admission"
	"github.com/nodeagent/nodeagent/pkg/podsync/hook"
	"github.com/nodeagent/nodeagent/pkg/podsync/objects"
	"github.com/nodeagent/nodeagent/pkg/podsync/podmetrics"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podsource"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/probe"
	"github.com/nodeagent/nodeagent/pkg/podsync/terminationmessage"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/runtime/podnet"
	"github.com/nodeagent/nodeagent/pkg/runtime/selinux"
	"github.com/nodeagent/nodeagent/pkg/runtime/stack"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// pods is the pods half.
type pods struct {
	agent   *Agent
	config  *config.Config
	log     *slog.Logger
	pump    *logpump.Client
	network *podnet.Network
	runtime *containerd.Runtime
	objects *objects.Objects
	cgroups *cgroup.Tree
	volumes *volumeset.Set
	builder *containerconfig.Builder
	prober  *probe.Prober
	sink    *report.Pods
	static  *podsource.Static
	loop    *podsync.Loop

	node *node.Loop

	machine struct {
		hostname  string
		spec      ocispec.Node
		recursive bool
	}
}

// makePods makes the pods half, unless it is off.
func (a *Agent) makePods() error {
	if a.config.Pods.Enabled {
		p := &pods{agent: a, config: a.config, log: a.log}
		for _, step := range []func() error{p.makeRuntime, p.makeMachine, p.makeVolumes, p.makeBuilder, p.makeProber, p.makeLoop} {
			if err := step(); err != nil {
				return err
			}
		}
		a.pods = p
	}
	return a.makeReporter()
}

// makeReporter makes what reports the node; its facts come from the pods half if that is on.
func (a *Agent) makeReporter() error {
	c := facts.Config{
		Config: a.config, Version: version.Kubernetes(), Now: a.options.Now, Sample: measure.Machine{Disk: a.config.Paths.Root}.Sample,
	}
	if a.pods != nil {
		c.Runtime, c.Network = a.pods.runtime, a.pods.network
		c.Handlers = append([]string{""}, a.pods.runtime.HandlerNames()...)
	}
	g, err := facts.NewGatherer(c)
	if err != nil {
		return err
	}
	a.node, err = report.NewNode(report.NodeConfig{
		Client: a.clients.Status, Facts: g.Facts, Name: a.config.Node.Name, Register: a.config.Node.Register,
		UpdateEvery: a.config.Node.StatusUpdateFrequency, ReportEvery: a.config.Node.StatusReportFrequency,
		Clock: realClock(), Log: a.log,
	})
	return err
}

func (p *pods) makeRuntime() error {
	s, err := stack.New(p.config, p.log, p.agent.options.Now)
	if err != nil {
		return err
	}
	p.pump, p.network, p.runtime = s.Pump, s.Network, s.Runtime
	return nil
}

// makeMachine finds what specs must know of the machine.
func (p *pods) makeMachine() error {
	var err error
	if p.machine.hostname, err = os.Hostname(); err != nil {
		return fmt.Errorf("asking for the host name: %w", err)
	}
	if p.machine.spec, p.machine.recursive, err = stack.Machine(); err != nil {
		return err
	}
	p.machine.spec.SingleProcessOOMKill = p.config.Cgroups.SingleProcessOOMKill
	if p.config.Pods.CPUCFSQuota {
		p.machine.spec.CPUQuotaPeriod = p.config.Pods.CPUCFSQuotaPeriod.Microseconds()
	}
	p.cgroups, err = cgroup.New(cgroup.Config{
		Layout:  cgroup.Layout{Root: p.config.Cgroups.Root, Systemd: p.config.Cgroups.Driver == "systemd", PerQOS: p.config.Cgroups.PerQOS},
		Enforce: cgroup.Enforce{CPUPeriod: p.machine.spec.CPUQuotaPeriod, Pids: p.config.Pods.PidsLimit},
		Owner:   p.config.Paths.Root,
		Log:     p.log,
	})
	if err != nil {
		return err
	}
	if !p.cgroups.V2() && p.config.Cgroups.FailV1 {
		return errors.New("this machine has cgroup v1 and failCgroupV1 is true: boot it with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or set failCgroupV1: false")
	}
	return nil
}

func (p *pods) makeVolumes() error {
	var err error
	p.objects, err = objects.New(objects.Config{
		Client: p.agent.clients.Main, Services: p.agent.watched.Services, Changed: p.renew, Now: p.agent.options.Now, Log: p.log,
	})
	if err != nil {
		return err
	}
	kinds, err := plugins.New(p.objects)
	if err != nil {
		return err
	}
	p.volumes, err = volumeset.New(volumeset.Config{
		Root: p.config.Paths.Root, Plugins: append(kinds, p.agent.options.Volumes...), Use: p.objects.Use, Allocatable: p.allocatable,
	})
	return err
}

// renew tells the pods' loop which pods name a ConfigMap or Secret that has changed.
func (p *pods) renew(o podspec.ObjectRef, uids []types.UID) {
	for _, uid := range uids {
		p.loop.Renew(uid, o)
	}
}

func (p *pods) makeBuilder() error {
	var err error
	p.builder, err = containerconfig.New(containerconfig.Config{
		Root: p.config.Paths.Root, Run: p.config.Paths.Run, PodLogs: p.config.Paths.PodLogs,
		Volumes: p.volumes, Users: p.runtime, Objects: p.objects, Cgroups: p.cgroups,
		DNS:            containerconfig.DNS{Servers: p.config.Pods.ClusterDNS, Domain: p.config.Pods.ClusterDomain, ResolvConf: p.config.Pods.ResolvConf},
		Node:           p.machineNow,
		SeccompDefault: p.config.Pods.SeccompDefault,
		Seccomp:        containerd.DefaultSeccomp,
		AppArmor:       containerd.AppArmor{},
		SELinux:        selinux.Host{},
		VolumeDir:      p.runtime.VolumeDir,
		Handler:        p.handler,
		Warn: func(pod *corev1.Pod, reason, message string) {
			p.agent.events.Event(pod, corev1.EventTypeWarning, reason, message)
		},
		Log: p.log,
	})
	return err
}

// handler finds the runtime handler of a RuntimeClass; "" is the default one's (KEP-585).
func (p *pods) handler(ctx context.Context, class string) (string, error) {
	if class == "" {
		return "", nil
	}
	found, err := p.agent.watched.RuntimeClass(ctx, class)
	if err != nil {
		return "", err
	}
	if found.Handler == "" || slices.Contains(p.runtime.HandlerNames(), found.Handler) {
		return found.Handler, nil
	}
	return "", fmt.Errorf("no runtime for %q is configured: RuntimeClass %q names it; runtime handlers here are %q", found.Handler, class, p.runtime.HandlerNames())
}

// machineNow is what containers may be told of this machine.
func (p *pods) machineNow() containerconfig.Node {
	hostname := p.machine.hostname
	if now, err := os.Hostname(); err == nil {
		hostname = now // somebody may have set it
	}
	return containerconfig.Node{
		Hostname: hostname, IPs: p.agent.addresses.List(), Allocatable: p.allocatable(), Spec: p.machine.spec,
		RecursiveReadOnly: p.machine.recursive, Devices: containerconfig.HostDevices,
	}
}

func (p *pods) allocatable() corev1.ResourceList {
	if n := p.agent.node.Current(); n != nil {
		return n.Status.Allocatable
	}
	return nil
}

func (p *pods) makeProber() error {
	metrics, err := probe.NewMetrics(p.agent.registry)
	if err != nil {
		return err
	}
	p.prober, err = probe.New(probe.Config{
		Exec: p.runtime, Events: p.agent.events, Wake: func(uid types.UID) { p.loop.Wake(uid) }, HostIP: p.agent.addresses.Primary,
		Metrics: metrics, Now: p.agent.options.Now, Random: rand.Float64, Log: p.log,
	})
	return err
}

// makeLoop makes the pipeline itself: sources in, workers, statuses out.
func (p *pods) makeLoop() error {
	a, c, now := p.agent, p.config, p.agent.options.Now
	var err error
	if p.static, err = podsource.NewStatic(podsource.StaticConfig{
		Dir: c.Paths.StaticPods, NodeName: c.Node.Name, Client: a.clients.Main, Interval: c.Pods.FileCheckFrequency, Now: now, Log: p.log,
	}); err != nil {
		return err
	}
	api, err := podsource.NewAPI(podsource.APIConfig{Client: a.clients.Main, NodeName: c.Node.Name, Mirrors: p.static, Log: p.log})
	if err != nil {
		return err
	}
	if p.sink, err = report.NewPods(report.PodsConfig{
		Client: a.clients.Status, QPS: a.config.API.QPS, Burst: a.config.API.Burst, Now: now, Log: p.log,
	}); err != nil {
		return err
	}
	executor, err := p.makeExecutor()
	if err != nil {
		return err
	}
	operations := podmetrics.NewOperations(a.registry)
	p.loop, err = podsync.New(podsync.Config{
		Sources: append([]podsync.Source{api, p.static}, a.options.Sources...), Sink: p.statuses(), Pods: p.runtime, Executor: executor, Claims: p.claims(),
		Host: host{p.builder, p.runtime}, Volumes: mounts{p.volumes, p.builder}, Prober: p.prober, Events: a.events, Messages: terminationmessage.Reader{},
		Admit: p.admit, Allocatable: p.allocatable, HostIPs: p.agent.addresses.List, SyncFrequency: c.Pods.SyncFrequency, RefreshInterval: c.Volumes.RefreshInterval,
		RequestTimeout: c.Pods.RequestTimeout, CrashMax: c.Pods.CrashMax, OnAction: operations.Note, Now: now, Log: p.log,
	})
	if err != nil {
		return err
	}
	if err := p.makeNode(); err != nil {
		return err
	}
	return errors.Join(a.registry.Register(p.node.Collector()), a.registry.Register(podmetrics.NewRunning(c.Node.Name, p.running)))
}

// makeNode makes the node half's loop.
func (p *pods) makeNode() (err error) {
	p.node, err = node.New(node.Config{
		Health:  func(ctx context.Context) string { return node.Health(ctx, p.runtime.Ready, p.network.Status) },
		Changed: func() { p.agent.node.Changed() }, Pods: p.ofNode, Allocatable: p.allocatable, Cgroups: p.cgroups,
		LimitStorage: p.config.Reserved.LocalStorage, Storage: p.storage,
		Evict: func(uid types.UID, e pressure.Eviction) {
			p.loop.End(uid, podspec.Termination{Reason: e.Reason, Message: e.Message, Grace: &e.Grace})
		},
		Events: p.agent.events, Now: p.agent.options.Now, Log: p.log,
	})
	return err
}

// running is what the runtime has of this node's pods.
func (p *pods) running() []runtime.Pod {
	var all []runtime.Pod
	for _, v := range p.loop.Snapshot() {
		all = append(all, p.have(v.UID))
	}
	return all
}

// statuses is where the loop's statuses go: to the API, and to the services half, which need not
// wait for the API to learn that a pod of this node is not ready.
func (p *pods) statuses() podsync.StatusSink {
	if !p.config.Proxy.LocalEndpoints || p.agent.services == nil {
		return p.sink
	}
	return report.Local{Sink: p.sink, Endpoints: p.agent.services.tracker}
}

// ofNode are the pods as the node half sees them.
func (p *pods) ofNode() []node.Pod {
	var pods []node.Pod
	for _, v := range p.loop.Snapshot() {
		if v.Pod != nil {
			pods = append(pods, node.Pod{Pod: v.WithStatus(), Static: v.Static, Ended: v.Refused != "" || v.Done})
		}
	}
	return pods
}

// storage measures what a pod takes of the node's disk.
func (p *pods) storage(ctx context.Context, pod *corev1.Pod) (pressure.Usage, error) {
	f := measure.PodFiles{Volumes: map[string]string{}, Files: containerconfig.Writable(p.config.Paths.Root, pod.UID)}
	have := p.have(pod.UID)
	logs := containerconfig.LogDir(p.config.Paths.PodLogs, runtime.RefOf(pod))
	for _, c := range have.Containers {
		if have.Latest(c.Name).ID == c.ID {
			f.Containers = append(f.Containers, measure.ContainerFiles{Name: c.Name, ID: c.ID, Logs: filepath.Join(logs, c.Name)})
		}
	}
	var unknown []error
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
	used, err := measure.Storage(ctx, p.runtime, f)
	return used, errors.Join(append(unknown, err)...)
}

// claims are all that pods may hold on this host, by kind.
func (p *pods) claims() map[podplan.Kind]podsync.Claims {
	return map[podplan.Kind]podsync.Claims{
		podplan.Volume: podsync.VolumeClaims{Volumes: mounts{p.volumes, p.builder}},
		podplan.Cgroup: podsync.CgroupClaims{Cgroups: p.cgroups},
		podplan.Folder: podsync.FolderClaims{Folders: p.builder},
	}
}

// makeExecutor makes what carries actions out.
func (p *pods) makeExecutor() (*podsync.Executor, error) {
	c := p.config
	secrets, err := podsync.NewAPISecrets(p.objects, p.log)
	if err != nil {
		return nil, err
	}
	puller, err := podsync.NewPuller(podsync.PullerConfig{
		Images: p.runtime, Secrets: secrets, Events: p.agent.events, Parallel: c.Images.MaxParallel, PerRegistry: c.Images.MaxPerRegistry,
		QPS: c.Images.PullQPS, Burst: c.Images.PullBurst, Now: p.agent.options.Now,
	})
	if err != nil {
		return nil, err
	}
	hookMetrics, err := hook.NewMetrics(p.agent.registry)
	if err != nil {
		return nil, err
	}
	hooks, err := hook.New(hook.Config{Exec: p.runtime, Metrics: hookMetrics})
	if err != nil {
		return nil, err
	}
	return podsync.NewExecutor(podsync.ExecutorConfig{
		Runtime: p.runtime, Images: p.runtime, Puller: puller, Build: builder{p.builder}, Claims: p.claims(), Cgroups: p.cgroups,
		Hooks: hooks, Events: p.agent.events,
	})
}

// admit asks whether the pod may run here beside the others.
func (p *pods) admit(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
	object := p.agent.node.Current()
	if n := p.agent.watched.Node(); n != nil {
		object = n
	}
	if object == nil {
		// Static pods start before the API server can be asked; it is what they are for.
		return nil
	}
	static := pod.Annotations[podsource.SourceAnnotation] == "file"
	return admission.Admit(pod, others, admission.Node{
		Object: object, OS: goruntime.GOOS, AllowedUnsafeSysctls: p.config.Pods.AllowedUnsafeSysctls,
		AppArmor: p.machine.spec.AppArmor != "",
	}, static)
}

// Run runs the pods half until ctx ends; pods run on.
func (p *pods) Run(ctx context.Context) error {
	if !p.cgroups.V2() {
		p.log.Warn("This machine has cgroup v1, which Kubernetes and systemd are giving up: move it to cgroup v2")
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		p.pump.Run, p.runtime.Run, p.objects.Run, p.prober.Run, p.sink.Run, p.loop.Run, p.node.Run,
	} {
		g.Go(func() error { return part(ctx) })
	}
	return g.Wait()
}

// builder fits containerconfig to what the loop asks for.
type builder struct{ *containerconfig.Builder }

// Container implements podsync.Builder.
func (b builder) Container(ctx context.Context, r podsync.ContainerRequest) (runtime.ContainerConfig, error) {
	return b.Build(ctx, containerconfig.Request(r))
}

// mounts are the volumes of pods with what their containers have mounted beside them.
type mounts struct {
	*volumeset.Set
	builder *containerconfig.Builder
}

// Mounted implements podsync.Volumes.
func (m mounts) Mounted(_ context.Context, uid types.UID) (bool, error) {
	return m.builder.Mounted(uid)
}

// Unmount implements podsync.Volumes.
func (m mounts) Unmount(ctx context.Context, uid types.UID) error {
	if err := m.builder.Release(uid); err != nil {
		return err
	}
	return m.Set.Unmount(ctx, uid)
}

// host finds what the host holds for pods.
type host struct {
	*containerconfig.Builder
	runtime *containerd.Runtime
}

// Leftovers implements podsync.Host. What a kubelet's pods have by containerd's CRI plugin is no
// leftover of ours.
func (h host) Leftovers(ctx context.Context) ([]types.UID, error) {
	left, err := h.Builder.Leftovers(ctx)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	foreign, err := h.runtime.Foreign(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(left, func(uid types.UID) bool { return foreign[uid] }), nil
}
