package facts

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/status"
)

// runtimePatience is how long the runtime may be away before the node is reported as not ready.
// While it restarts its containers run on, and a node that is not ready has all its pods taken out
// of Services. Kubelet waits as long.
const runtimePatience = 30 * time.Second

// askTime bounds one question to the runtime or the network, so that neither can hold up the
// node's status.
const askTime = 10 * time.Second

// firstAnswer is how long the first report waits for the runtime.
const firstAnswer = 5 * time.Second

// imageListTime is how long a report waits for the list of images; after that it repeats the last
// one.
const imageListTime = 5 * time.Second

// Runtime says how the container runtime is.
type Runtime interface {
	// Ready is nil when it can run containers.
	Ready(ctx context.Context) error
	// Version is as status.nodeInfo.containerRuntimeVersion wants it: "containerd://2.4.2".
	Version() string
	Images(ctx context.Context) ([]runtime.Image, error)
}

// Network says how the pod network is.
type Network interface {
	// Status is nil when a pod can be given a network.
	Status(ctx context.Context) error
}

// Config is what a Gatherer is made from.
type Config struct {
	Config  *config.Config
	Version string // of the agent, as status.nodeInfo.kubeletVersion
	Reader  Reader
	// Sample measures the machine: its disk is part of the capacity, and the rest is compared with
	// the eviction thresholds.
	Sample  func() (pressure.Sample, error)
	Runtime Runtime // nil: the pods half is off
	Network Network // nil: the pods half is off, or its runtime has a network of its own
	// Handlers are the names of the runtime handlers, "" included.
	Handlers []string
	Now      func() time.Time
}

// Gatherer puts together what status.Node needs.
type Gatherer struct {
	config     Config
	thresholds []pressure.Threshold

	mu       sync.Mutex
	machine  *Machine
	answered time.Time               // when the runtime last was ready; zero: never
	asked    bool                    // the runtime was asked before
	version  string                  // of the runtime, kept while it is away
	images   []corev1.ContainerImage // likewise
	seen     pressure.Seen
}

// NewGatherer checks the eviction thresholds; it reads nothing yet.
func NewGatherer(c Config) (*Gatherer, error) {
	thresholds, err := pressure.ParseThresholds(c.Config.Eviction.Hard)
	if err != nil {
		return nil, err
	}
	return &Gatherer{config: c, thresholds: thresholds}, nil
}

// Facts gathers. Only facts of the machine itself are errors; a runtime that is away is a fact.
func (g *Gatherer) Facts(ctx context.Context) (status.Facts, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch m, err := g.config.Reader.Machine(); {
	case err == nil:
		g.machine = &m // processors, memory and huge pages may have been added or taken away
	case g.machine == nil:
		return status.Facts{}, err
	}
	c := g.config.Config
	addresses, err := Addresses(c.Node.IPs)
	if err != nil {
		return status.Facts{}, err
	}
	sample, err := g.config.Sample()
	if err != nil {
		return status.Facts{}, err
	}
	f := status.Facts{
		Name: c.Node.Name, ProviderID: c.Node.ProviderID, Labels: c.Node.Labels, Taints: c.Node.Taints,
		Addresses: nodeAddresses(addresses, c.Node.Name), Capacity: g.capacity(sample[pressure.NodeFSAvailable].Total), Port: int32(c.Server.Listen.Port()),
		Info: g.machine.Info, MaxImages: c.Node.MaxImages,
	}
	if c.Node.ExternalCloud {
		f.CloudAddresses = true
		if len(c.Node.IPs) == 0 { // the cloud knows them
			f.Addresses = nodeAddresses(nil, c.Node.Name)
		} else {
			f.Annotations = map[string]string{providedAddresses: strings.Join(texts(addresses), ",")}
		}
	}
	f.Reserved = g.reserved(f.Capacity)
	f.Info.KubeletVersion = g.config.Version
	g.fillRuntime(ctx, &f)
	g.fillPressure(&f, sample)
	return f, nil
}

// providedAddresses is the annotation by which a cloud controller manager chooses among a
// machine's addresses.
const providedAddresses = "alpha.kubernetes.io/provided-node-ip"

func texts(ips []netip.Addr) []string {
	out := make([]string, 0, len(ips))
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

// nodeAddresses are the internal addresses, then the name under which the node is known.
func nodeAddresses(ips []netip.Addr, name string) []corev1.NodeAddress {
	out := make([]corev1.NodeAddress, 0, len(ips)+1)
	for _, ip := range ips {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
}

func (g *Gatherer) capacity(disk int64) corev1.ResourceList {
	c := g.config.Config
	out := maps.Clone(g.machine.Capacity)
	pods := int64(c.Node.MaxPods)
	if per := int64(c.Node.PodsPerCore); per > 0 {
		cpus := g.machine.Capacity[corev1.ResourceCPU]
		pods = min(pods, per*cpus.Value())
	}
	out[corev1.ResourcePods] = *resource.NewQuantity(pods, resource.DecimalSI)
	if c.Reserved.LocalStorage {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk, resource.BinarySI)
	}
	return out
}

// reserved is what pods cannot have: the two reservations and the hard eviction thresholds.
func (g *Gatherer) reserved(capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	add := func(name corev1.ResourceName, q resource.Quantity) {
		sum := out[name]
		sum = sum.DeepCopy()
		sum.Add(q)
		out[name] = sum
	}
	for _, list := range []corev1.ResourceList{g.config.Config.Reserved.System, g.config.Config.Reserved.Kube} {
		for name, q := range list {
			add(name, q)
		}
	}
	for _, t := range g.thresholds {
		if t.Resource == "" {
			continue
		}
		total := capacity[t.Resource]
		add(t.Resource, *resource.NewQuantity(t.Least(total.Value()), resource.BinarySI))
	}
	return out
}

// fillRuntime asks runtime and network. While the runtime is away, its last version and images
// stay.
func (g *Gatherer) fillRuntime(ctx context.Context, f *status.Facts) {
	if g.config.Runtime == nil {
		return
	}
	now := g.config.Now()
	if err := g.ready(ctx); err != nil {
		if now.Sub(g.answered) >= runtimePatience {
			f.Conditions.RuntimeError = err.Error()
		}
	} else {
		g.answered = now
		g.version = g.config.Runtime.Version()
		g.images = g.listImages(ctx)
	}
	if g.config.Network != nil {
		if err := ask(ctx, g.config.Network.Status); err != nil {
			f.Conditions.NetworkError = err.Error()
		}
	}
	f.Info.ContainerRuntimeVersion = g.version
	f.Images = g.images
	f.Runtime.SupplementalGroupsPolicy = true
	// The API server allows these changes of pods only on nodes that declare them (KEP-5328).
	f.Runtime.DeclaredFeatures = []string{"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"}
	for _, name := range g.config.Handlers {
		f.Runtime.Handlers = append(f.Runtime.Handlers, corev1.NodeRuntimeHandler{Name: name, Features: &corev1.NodeRuntimeHandlerFeatures{}})
	}
}

// listImages returns the last list when the runtime does not answer in time.
func (g *Gatherer) listImages(ctx context.Context) []corev1.ContainerImage {
	ctx, cancel := context.WithTimeout(ctx, imageListTime)
	defer cancel()
	images, err := g.config.Runtime.Images(ctx)
	if err != nil {
		return g.images
	}
	return containerImages(images)
}

// ask bounds a question to the runtime or the network.
func ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return question(ctx)
}

// ready asks the runtime. The first call waits for an answer: an agent that has just started has
// not connected yet, and must not report a node as not ready that was ready before.
func (g *Gatherer) ready(ctx context.Context) error {
	err := ask(ctx, g.config.Runtime.Ready)
	if g.asked {
		return err
	}
	g.asked = true
	for deadline := time.NewTimer(firstAnswer); err != nil; err = ask(ctx, g.config.Runtime.Ready) {
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			return err
		case <-deadline.C:
			return err
		case <-pause.C:
		}
	}
	return nil
}

func containerImages(images []runtime.Image) []corev1.ContainerImage {
	out := make([]corev1.ContainerImage, 0, len(images))
	for _, i := range images {
		out = append(out, corev1.ContainerImage{Names: slices.Concat(i.Digests, i.Tags), SizeBytes: i.Size})
	}
	return out
}

// fillPressure compares the sample with the hard eviction thresholds.
func (g *Gatherer) fillPressure(f *status.Facts, s pressure.Sample) {
	now := g.config.Now()
	g.seen = pressure.Observe(g.seen, g.thresholds, s, now)
	holds := func(c corev1.NodeConditionType) bool {
		return g.seen.Holds(c, g.config.Config.Eviction.TransitionPeriod, now)
	}
	f.Conditions.MemoryPressure = holds(corev1.NodeMemoryPressure)
	f.Conditions.DiskPressure = holds(corev1.NodeDiskPressure)
	f.Conditions.PIDPressure = holds(corev1.NodePIDPressure)
}
