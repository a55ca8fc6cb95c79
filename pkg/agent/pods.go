package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	goruntime "runtime"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/node"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
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
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/runtime/selinux"
	"github.com/nodeagent/nodeagent/pkg/runtime/stack"
	"github.com/nodeagent/nodeagent/pkg/status/report"
)

// machinery is what runs containers: containerd with its network and log pump, or the embedder's
// runtime.
type machinery struct {
	runtime.Complete
	network facts.Network // nil: the runtime brings its own
	others  []part
}

// newMachinery makes it, unless the pods half is off.
func newMachinery(s shared, own runtime.Runtime) (*machinery, error) {
	switch {
	case !s.config.Pods.Enabled:
		return nil, nil
	case own != nil:
		return &machinery{Complete: runtime.WithAllPowers(own)}, nil
	}
	made, err := stack.New(s.config, s.log, s.now)
	if err != nil {
		return nil, err
	}
	return &machinery{made.Runtime, made.Network, []part{{"log pump", made.Pump.Run, nil}}}, nil
}

func (m *machinery) parts() []part {
	if m == nil {
		return nil
	}
	return append(m.others, part{"container runtime", m.Run, nil})
}

// health is the state of runtime and network as text.
func (m *machinery) health(ctx context.Context) string {
	if m.network == nil {
		return node.Health(ctx, m.Ready)
	}
	return node.Health(ctx, m.Ready, m.network.Status)
}

// podsNeeds are the parts of others that the pods half uses.
type podsNeeds struct {
	machinery *machinery
	reporter  *report.Node
	endpoints report.Endpoints // nil: statuses go to the API server alone
}

// podsHalf is the pods half.
type podsHalf struct {
	shared
	podsNeeds
	machine  ocispec.Node
	readOnly bool // the kernel can make mounts read-only with all below them
	objects  *objects.Objects
	cgroups  *cgroup.Tree
	volumes  *volumeset.Set
	builder  *containerconfig.Builder
	prober   *probe.Prober
	sink     *report.Pods
	static   *podsource.Static
	loop     *podsync.Loop
}

// newPodsHalf makes the pods half, unless it is off.
func newPodsHalf(s shared, o Options, n podsNeeds) (*podsHalf, error) {
	if n.machinery == nil {
		return nil, nil
	}
	p := &podsHalf{shared: s, podsNeeds: n}
	for _, step := range []func() error{
		p.makeCgroups, func() error { return p.makeVolumes(o.Volumes) }, p.makeBuilder, p.makeProber, func() error { return p.makeLoop(o.Sources) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *podsHalf) parts() []part {
	if p == nil {
		return nil
	}
	return []part{
		{"API objects", p.objects.Run, nil},
		{"prober", p.prober.Run, nil},
		{"pod status reporter", p.sink.Run, nil},
		{"pod loop", p.loop.Run, p.loop.Synced},
	}
}

// healthy is what /healthz and systemd's watchdog ask.
func (p *podsHalf) healthy() error {
	if p == nil {
		return nil
	}
	return p.loop.Healthy()
}

func (p *podsHalf) makeCgroups() (err error) {
	c := p.config
	if p.machine, p.readOnly, err = stack.Machine(); err != nil {
		return err
	}
	p.machine.SingleProcessOOMKill = c.Cgroups.SingleProcessOOMKill
	if c.Pods.CPUCFSQuota {
		p.machine.CPUQuotaPeriod = c.Pods.CPUCFSQuotaPeriod.Microseconds()
	}
	p.cgroups, err = cgroup.New(cgroup.Config{
		Layout:  cgroup.Layout{Root: c.Cgroups.Root, Systemd: c.Cgroups.Driver == "systemd", PerQOS: c.Cgroups.PerQOS},
		Enforce: cgroup.Enforce{CPUPeriod: p.machine.CPUQuotaPeriod, Pids: c.Pods.PidsLimit},
		Owner:   c.Paths.Root, Log: p.log,
	})
	switch {
	case err != nil:
		return err
	case !p.cgroups.V2() && c.Cgroups.FailV1:
		return errors.New("this machine has cgroup v1 and failCgroupV1 is true: boot it with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or set failCgroupV1: false")
	case !p.cgroups.V2():
		p.log.Warn("This machine has cgroup v1, which Kubernetes and systemd are giving up: move it to cgroup v2")
	}
	return nil
}

func (p *podsHalf) makeVolumes(more []volume.Plugin) (err error) {
	p.objects, err = objects.New(objects.Config{
		Client: p.clients.Main, Services: p.informers.Services, Now: p.now, Log: p.log,
		Changed: func(o podspec.ObjectRef, uids []types.UID) {
			for _, uid := range uids {
				p.loop.Renew(uid, o)
			}
		},
	})
	if err != nil {
		return err
	}
	kinds, err := plugins.New(p.objects)
	if err != nil {
		return err
	}
	p.volumes, err = volumeset.New(volumeset.Config{
		Root: p.config.Paths.Root, Plugins: append(kinds, more...), Use: p.objects.Use, Allocatable: p.reporter.Allocatable,
	})
	return err
}

func (p *podsHalf) makeBuilder() (err error) {
	c := p.config
	p.builder, err = containerconfig.New(containerconfig.Config{
		Root: c.Paths.Root, Run: c.Paths.Run, PodLogs: c.Paths.PodLogs,
		Volumes: p.volumes, Users: p.machinery, Objects: p.objects, Cgroups: p.cgroups,
		DNS:  containerconfig.DNS{Servers: c.Pods.ClusterDNS, Domain: c.Pods.ClusterDomain, ResolvConf: c.Pods.ResolvConf},
		Node: p.machineNow, SeccompDefault: c.Pods.SeccompDefault, Seccomp: containerd.DefaultSeccomp,
		AppArmor: containerd.AppArmor{}, SELinux: selinux.Host{}, VolumeDir: p.machinery.VolumeDir, Handler: p.informers.RuntimeHandler(p.machinery.HandlerNames()),
		Warn: func(pod *corev1.Pod, reason, message string) {
			p.events.Event(pod, corev1.EventTypeWarning, reason, message)
		},
		Log: p.log,
	})
	return err
}

// machineNow is what containers may know of this machine. Its name may be set while the agent runs.
func (p *podsHalf) machineNow() containerconfig.Node {
	hostname, err := os.Hostname()
	if err != nil {
		p.log.Error("The machine's host name cannot be read", "err", err)
	}
	return containerconfig.Node{
		Hostname: hostname, IPs: p.addresses.List(), Allocatable: p.reporter.Allocatable(), Spec: p.machine,
		RecursiveReadOnly: p.readOnly, Devices: containerconfig.HostDevices,
	}
}

func (p *podsHalf) makeProber() error {
	metrics, err := probe.NewMetrics(p.registry)
	if err != nil {
		return err
	}
	p.prober, err = probe.New(probe.Config{
		Exec: p.machinery, Events: p.events, Wake: func(uid types.UID) { p.loop.Wake(uid) }, HostIP: p.addresses.Primary,
		Metrics: metrics, Now: p.now, Random: rand.Float64, Log: p.log,
	})
	return err
}

// makeLoop makes the pipeline itself: sources in, workers, statuses out.
func (p *podsHalf) makeLoop(more []podsync.Source) (err error) {
	c := p.config
	if p.static, err = podsource.NewStatic(podsource.StaticConfig{
		Dir: c.Paths.StaticPods, NodeName: c.Node.Name, Client: p.clients.Main, Interval: c.Pods.FileCheckFrequency, Now: p.now, Log: p.log,
	}); err != nil {
		return err
	}
	api, err := podsource.NewAPI(podsource.APIConfig{Client: p.clients.Main, NodeName: c.Node.Name, Mirrors: p.static, Log: p.log})
	if err != nil {
		return err
	}
	if p.sink, err = report.NewPods(report.PodsConfig{Client: p.clients.Status, QPS: c.API.QPS, Burst: c.API.Burst, Now: p.now, Log: p.log}); err != nil {
		return err
	}
	var sink podsync.StatusSink = p.sink
	if p.endpoints != nil {
		sink = report.Local{Sink: p.sink, Endpoints: p.endpoints}
	}
	executor, err := p.makeExecutor()
	if err != nil {
		return err
	}
	p.loop, err = podsync.New(podsync.Config{
		Sources: append([]podsync.Source{api, p.static}, more...), Sink: sink, Pods: p.machinery, Executor: executor, Host: podsync.OwnHost{Host: p.builder, Runtime: p.machinery},
		Volumes: mounts{p.volumes, p.builder}, Prober: p.prober, Events: p.events, Messages: terminationmessage.Reader{},
		Admit: p.admit, Allocatable: p.reporter.Allocatable, HostIPs: p.addresses.List, SyncFrequency: c.Pods.SyncFrequency,
		RefreshInterval: c.Volumes.RefreshInterval, RequestTimeout: c.Pods.RequestTimeout, CrashMax: c.Pods.CrashMax,
		OnAction: podmetrics.NewOperations(p.registry).Note, Now: p.now, Log: p.log,
	})
	if err != nil {
		return err
	}
	return p.registry.Register(podmetrics.NewRunning(c.Node.Name, p.running))
}

// running is what the runtime has of this node's pods.
func (p *podsHalf) running() []runtime.Pod {
	var pods []runtime.Pod
	for _, v := range p.loop.Snapshot() {
		pod, err := p.machinery.Get(context.Background(), v.UID) //nolint:forbidigo // answered from memory
		if err != nil {
			p.log.Error("Runtime did not say what runs of a pod", "uid", v.UID, "err", err)
		}
		pods = append(pods, pod)
	}
	return pods
}

// claims are all that pods may hold on this host, by kind.
func (p *podsHalf) claims() map[podplan.Kind]podsync.Claims {
	return map[podplan.Kind]podsync.Claims{
		podplan.Volume: podsync.VolumeClaims{Volumes: mounts{p.volumes, p.builder}},
		podplan.Cgroup: podsync.CgroupClaims{Cgroups: p.cgroups},
		podplan.Folder: podsync.FolderClaims{Folders: p.builder},
	}
}

// makeExecutor makes what carries actions out.
func (p *podsHalf) makeExecutor() (*podsync.Executor, error) {
	c := p.config
	secrets, err := podsync.NewAPISecrets(p.objects, p.log)
	if err != nil {
		return nil, err
	}
	puller, err := podsync.NewPuller(podsync.PullerConfig{
		Images: p.machinery, Secrets: secrets, Events: p.events, Parallel: c.Images.MaxParallel, PerRegistry: c.Images.MaxPerRegistry,
		QPS: c.Images.PullQPS, Burst: c.Images.PullBurst, Now: p.now,
	})
	if err != nil {
		return nil, err
	}
	hookMetrics, err := hook.NewMetrics(p.registry)
	if err != nil {
		return nil, err
	}
	hooks, err := hook.New(hook.Config{Exec: p.machinery, Metrics: hookMetrics})
	if err != nil {
		return nil, err
	}
	return podsync.NewExecutor(podsync.ExecutorConfig{
		Runtime: p.machinery, Images: p.machinery, Puller: puller, Build: p.builder, Claims: p.claims(), Cgroups: p.cgroups,
		Hooks: hooks, Events: p.events,
	})
}

// admit asks whether the pod may run here beside the others. Static pods start before the API
// server answers: without a Node, everything may run.
func (p *podsHalf) admit(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
	object := p.informers.Node()
	if object == nil {
		object = p.reporter.Current()
	}
	if object == nil {
		return nil
	}
	return admission.Admit(pod, others, admission.Node{
		Object: object, OS: goruntime.GOOS, AllowedUnsafeSysctls: p.config.Pods.AllowedUnsafeSysctls, AppArmor: p.machine.AppArmor != "",
	}, pod.Annotations[podsource.SourceAnnotation] == "file")
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
