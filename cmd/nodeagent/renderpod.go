package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/render"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/runtime/stack"
)

// The generic machine for which pods are rendered by default. Its addresses are RFC 5737's, for
// documentation.
const (
	genericNode   = "node"
	genericMemory = 8 << 30
	genericNodeIP = "192.0.2.254"
	genericPodIP  = "192.0.2.1"
)

type renderPodFlags struct {
	config config.Flags
	files  []string
	node   string
	here   bool
	images []string
	users  []string
	podIPs []string
	output choice
}

func renderPodCommand() *cobra.Command {
	f := &renderPodFlags{output: oneOf("text", "json")}
	c := &cobra.Command{
		Use:   "pod -f FILE [flags of run]",
		Short: "Print the OCI spec of each container of the pods in a file, and the steps that start them",
		Long: `Print the OCI spec of each container of the pods in a file, and the steps that start them.

ConfigMaps, Secrets and Services that the pods use are taken from the files, as is a Node for the facts of the machine.
What cannot be known without a cluster has a placeholder, and a note says so.`,
		Example: `  nodeagent render pod -f pod.yaml -f configmap.yaml --config /etc/nodeagent
  kubectl get pod,configmap,secret,service -o yaml | nodeagent render pod -f - --image-config nginx:1.27=nginx.json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	fs := c.Flags()
	fs.StringArrayVarP(&f.files, "filename", "f", nil, `file with YAML or JSON documents, "-" for standard input; may be given several times`)
	fs.StringVar(&f.node, "node", "", "name of the node (default: the only Node in the files)")
	fs.BoolVar(&f.here, "this-machine", false, "render for this machine: its memory, devices, capabilities and addresses")
	fs.StringArrayVar(&f.images, "image-config", nil, "REFERENCE=FILE: the OCI image configuration of an image, as `ctr images inspect` and registries have it")
	fs.StringArrayVar(&f.users, "user", nil, "NAME=UID:GID: a user of the images")
	fs.StringSliceVar(&f.podIPs, "pod-ip", []string{genericPodIP}, "addresses of pods that have none in the file, primary first")
	fs.VarP(&f.output, "output", "o", "output format")
	daemonFlags(c, &f.config, "config")
	return c
}

func (f *renderPodFlags) run(c *cobra.Command) (err error) {
	cfg, _, err := config.Load(&f.config)
	if err != nil {
		return err
	}
	objects, err := readObjects(c.InOrStdin(), c.ErrOrStderr(), f.files)
	if err != nil {
		return err
	}
	o, err := f.options(&cfg, objects)
	if err != nil {
		return err
	}
	if o.Scratch, err = os.MkdirTemp("", "nodeagent-render-"); err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Scratch)) }()
	pods, err := render.Pods(c.Context(), objects, o)
	show := render.PrintPods
	if f.output.value == "json" {
		show = render.PrintPodsJSON
	}
	if len(pods) > 0 {
		err = errors.Join(err, show(c.OutOrStdout(), pods))
	}
	return err
}

func (f *renderPodFlags) options(cfg *config.Config, objects *render.Objects) (o render.PodOptions, err error) {
	o.Config = cfg
	if o.PodIPs, err = addresses("--pod-ip", f.podIPs); err != nil {
		return o, err
	}
	if o.Images, err = readImages(f.images); err != nil {
		return o, err
	}
	if o.Users, err = readUsers(f.users); err != nil {
		return o, err
	}
	node := objects.Node(f.node)
	switch {
	case f.here:
		o.Node, err = thisMachine(cfg)
	default:
		cfg.Pods.ResolvConf = "" // another machine's file is of no use
		cfg.Node.Name = f.node
		if f.node == "" {
			cfg.Node.Name = genericNode
		}
		o.Node = genericMachine(cfg)
		if node == nil {
			o.Assumed = append(o.Assumed, fmt.Sprintf("rendered for a machine with %d GiB of memory, cgroup v2 and the address %s (--this-machine, or a Node in the file)",
				genericMemory>>30, o.Node.IPs[0]))
		}
	}
	if err == nil && node != nil {
		ofNode(&o.Node, cfg, node)
	}
	o.Seccomp = stack.DefaultSeccomp
	o.Node.Spec.SingleProcessOOMKill = cfg.Cgroups.SingleProcessOOMKill
	if cfg.Pods.CPUCFSQuota {
		o.Node.Spec.CPUQuotaPeriod = cfg.Pods.CPUCFSQuotaPeriod.Microseconds()
	}
	return o, err
}

func thisMachine(cfg *config.Config) (n containerconfig.Node, err error) {
	n.Devices = containerconfig.HostDevices
	if n.Spec, n.RecursiveReadOnly, err = stack.Machine(); err != nil {
		return n, err
	}
	if n.Hostname, err = os.Hostname(); err != nil {
		return n, fmt.Errorf("asking for the host name: %w", err)
	}
	n.IPs, err = facts.Addresses(cfg.Node.IPs)
	return n, err
}

func genericMachine(cfg *config.Config) containerconfig.Node {
	n := containerconfig.Node{
		Hostname: cfg.Node.Name, IPs: cfg.Node.IPs, RecursiveReadOnly: true,
		Spec: ocispec.Node{MemoryCapacity: genericMemory, MinOOMScoreAdj: -1000, CgroupV2: true, SwapControl: true},
	}
	if len(n.IPs) == 0 {
		n.IPs = []netip.Addr{netip.MustParseAddr(genericNodeIP)}
	}
	return n
}

// ofNode takes the values of a Node object.
func ofNode(n *containerconfig.Node, cfg *config.Config, object *corev1.Node) {
	cfg.Node.Name, n.Hostname = object.Name, object.Name
	if h := object.Labels[corev1.LabelHostname]; h != "" {
		n.Hostname = h
	}
	if ips := render.Addresses(object); len(ips) > 0 {
		n.IPs = ips
	}
	if m, ok := object.Status.Capacity[corev1.ResourceMemory]; ok {
		n.Spec.MemoryCapacity = m.Value()
	}
	n.Allocatable = object.Status.Allocatable
}

// readObjects reads the files of -f. It lists on notes the objects that cannot be rendered.
func readObjects(in io.Reader, notes io.Writer, files []string) (*render.Objects, error) {
	if len(files) == 0 {
		return nil, usageError{errors.New("give a file with objects: -f FILE, or -f - for standard input")}
	}
	var o render.Objects
	var all error
	for _, name := range files {
		var text []byte
		var err error
		if name == "-" {
			name = "standard input"
			text, err = io.ReadAll(in)
		} else {
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading objects: %w", err)
		}
		all = errors.Join(all, o.Read(name, text))
	}
	for _, n := range o.Ignored {
		fmt.Fprintln(notes, "#", n)
	}
	return &o, all
}

func readImages(given []string) (map[string]imagespec.ImageConfig, error) {
	out := map[string]imagespec.ImageConfig{}
	for _, g := range given {
		ref, file, ok := strings.Cut(g, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--image-config %q: it must be REFERENCE=FILE", g)}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of image %s: %w", ref, err)
		}
		var image imagespec.Image
		if err := json.Unmarshal(text, &image); err != nil {
			return nil, fmt.Errorf("reading the configuration of image %s in %s: it must be OCI's, with a field config: %w", ref, file, err)
		}
		out[ref] = image.Config
	}
	return out, nil
}

func readUsers(given []string) (map[string]runtime.User, error) {
	out := map[string]runtime.User{}
	for _, g := range given {
		name, ids, ok := strings.Cut(g, "=")
		user, err := render.ParseUser(ids)
		if !ok || err != nil {
			return nil, usageError{fmt.Errorf("--user %q: it must be NAME=UID:GID", g)}
		}
		user.Name = name
		out[name] = user
	}
	return out, nil
}

func addresses(flag string, given []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, g := range given {
		a, err := netip.ParseAddr(g)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s %q: it must be an IP address", flag, g)}
		}
		out = append(out, a)
	}
	return out, nil
}
