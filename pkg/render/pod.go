package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podsource"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
)

// PodOptions say what a file with pods does not.
type PodOptions struct {
	Config *config.Config
	// Node are the facts of the machine to render for.
	Node containerconfig.Node
	// Images are the configurations of images by the reference that pods name; a placeholder stands
	// for one that is not here.
	Images map[string]imagespec.ImageConfig
	// Users resolve user names of images.
	Users map[string]runtime.User
	// Seccomp makes the profile RuntimeDefault.
	Seccomp func(*specs.Spec) (*specs.LinuxSeccomp, error)
	// PodIPs are the addresses of pods whose status has none.
	PodIPs []netip.Addr
	// Assumed are notes for every pod on what was made up for it.
	Assumed []string
	// Scratch is an empty folder, for the files that the agent manages for pods. Nothing that is
	// rendered names it.
	Scratch string
}

// Pod is what would be done for one pod.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Where     string    `json:"where"` // file:line (document n)
	// Notes say what was assumed, or stands for what is not known here.
	Notes []string `json:"notes,omitempty"`
	// Steps are the actions that start the pod on an empty host: those of one step side by side.
	Steps      [][]string            `json:"steps"`
	Sandbox    runtime.SandboxConfig `json:"sandbox"`
	Containers []Container           `json:"containers"`
}

// Container is one container of a pod, in the order of the spec: init, usual, ephemeral.
type Container struct {
	Name    string      `json:"name"`
	ID      string      `json:"id"`
	LogPath string      `json:"logPath"`
	Spec    *specs.Spec `json:"spec"`
}

// Pods renders every pod of the file by the code that the agent starts them with. Errors are
// joined, one a pod, and name the place in the file; pods without one are returned beside them.
func Pods(ctx context.Context, objects *Objects, o PodOptions) ([]Pod, error) {
	if len(objects.Pods) == 0 {
		return nil, errors.New("rendering pods: there is none in the file")
	}
	r, err := newRenderer(objects, o)
	if err != nil {
		return nil, fmt.Errorf("rendering pods: %w", err)
	}
	var out []Pod
	var all error
	for _, pod := range objects.Pods {
		rendered, err := r.pod(ctx, pod)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("rendering %s, pod %s/%s: %s", objects.Where(pod), pod.Namespace, pod.Name, r.public(err.Error())))
			continue
		}
		out = append(out, rendered)
	}
	return out, all
}

// renderer is one call of Pods.
type renderer struct {
	o       PodOptions
	objects *Objects
	builder *containerconfig.Builder
	volumes *volumeset.Set
	notes   []string // of the pod that is being rendered
}

func newRenderer(objects *Objects, o PodOptions) (*renderer, error) {
	r := &renderer{o: o, objects: objects}
	kinds, err := plugins.New(source{objects})
	if err != nil {
		return nil, err
	}
	if r.volumes, err = volumeset.New(volumeset.Config{Root: o.Scratch, Plugins: kinds}); err != nil {
		return nil, err
	}
	// Profiles are read from where the agent reads them; what it writes goes to the scratch folder.
	if err := os.Symlink(filepath.Join(o.Config.Paths.Root, "seccomp"), filepath.Join(o.Scratch, "seccomp")); err != nil {
		return nil, fmt.Errorf("preparing the scratch folder: %w", err)
	}
	c := o.Config
	r.builder, err = containerconfig.New(containerconfig.Config{
		Root: o.Scratch, Run: c.Paths.Run, PodLogs: c.Paths.PodLogs,
		Volumes: r.volumes, Users: users(o.Users), Objects: source{objects},
		Cgroups:        groups{cgroup.Layout{Root: c.Cgroups.Root, Systemd: c.Cgroups.Driver == "systemd", PerQOS: c.Cgroups.PerQOS}},
		DNS:            containerconfig.DNS{Servers: c.Pods.ClusterDNS, Domain: c.Pods.ClusterDomain, ResolvConf: c.Pods.ResolvConf},
		Node:           func() containerconfig.Node { return o.Node },
		SeccompDefault: c.Pods.SeccompDefault,
		Seccomp:        o.Seccomp,
		VolumeDir:      func(id string) string { return filepath.Join(c.Paths.Root, "nodeagent", "volumes", id) },
		Handler:        r.handler,
		Bind:           func(string, string, string) error { return nil },
		Propagates:     func(string, corev1.MountPropagationMode) error { return nil },
		Warn:           func(_ *corev1.Pod, reason, message string) { r.note("%s: %s", reason, message) },
		Log:            slog.New(slog.DiscardHandler),
	})
	return r, err
}

// handler takes a RuntimeClass for a handler of its own name, since it is an object that pods'
// files rarely have.
func (r *renderer) handler(_ context.Context, class string) (string, error) {
	if _, ok := r.o.Config.Runtime.Handlers[class]; !ok {
		return "", fmt.Errorf("runtimeClassName %q: the configuration has no runtime handler of this name", class)
	}
	r.note("RuntimeClass %s is taken to name the handler of the same name", class)
	return class, nil
}

// note keeps a remark once.
func (r *renderer) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.notes, text) {
		r.notes = append(r.notes, text)
	}
}

// public is a text as the agent would write it, with its root folder for the scratch folder.
func (r *renderer) public(text string) string {
	return strings.ReplaceAll(text, r.o.Scratch, r.o.Config.Paths.Root)
}

func (r *renderer) pod(ctx context.Context, given *corev1.Pod) (Pod, error) {
	r.notes = slices.Clone(r.o.Assumed)
	if err := check(given); err != nil {
		return Pod{}, err
	}
	pod := given.DeepCopy()
	podsource.Default(pod)
	if pod.UID == "" {
		pod.UID = types.UID(uuid.NewSHA1(uuid.NameSpaceURL, []byte(pod.Namespace+"/"+pod.Name)).String())
		r.note("the UID %s stands for the one that the API server gives", pod.UID)
	}
	if pod.Spec.NodeName == "" {
		pod.Spec.NodeName = r.o.Config.Node.Name
	}
	r.remark(ctx, pod)
	sandbox, err := r.builder.Sandbox(ctx, pod, 0)
	if err != nil {
		return Pod{}, err
	}
	if err := r.envFiles(pod); err != nil {
		return Pod{}, err
	}
	out := Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Where: r.objects.Where(given), Sandbox: sandbox}
	want := podplan.Want{UID: pod.UID, Pod: pod, HostIPs: r.o.Node.IPs}
	have := runtime.Pod{PodRef: runtime.RefOf(pod), Sandbox: &runtime.Sandbox{
		ID: runtime.SandboxID(pod.UID, 0), Ready: true, HostNetwork: pod.Spec.HostNetwork, IPs: r.podIPs(pod),
		Namespaces: runtime.NamespacePaths(filepath.Join(r.o.Config.Paths.Run, "pods", string(pod.UID)), sandbox),
	}}
	for _, c := range podspec.Containers(pod) {
		config, err := r.container(ctx, runtime.ContainerRequest{Pod: pod, HostIPs: want.HostIPs, Runtime: have, Name: c.Name}, c.Image)
		if err != nil {
			return Pod{}, fmt.Errorf("container %q: %w", c.Name, err)
		}
		out.Containers = append(out.Containers, config)
	}
	out.Notes, out.Steps = r.notes, rehearse(want)
	return out, nil
}

// container renders one container.
func (r *renderer) container(ctx context.Context, request runtime.ContainerRequest, image string) (Container, error) {
	config, known := r.o.Images[image]
	if !known {
		config.Entrypoint = []string{fmt.Sprintf("<entrypoint of %s>", image)}
		r.note("the configuration of image %s is not known: its entrypoint is a placeholder, its environment, user and working "+
			"folder are left out (--image-config %s=FILE)", image, image)
	}
	request.Image = runtime.Image{ID: "sha256:0", Config: config}
	built, err := r.builder.Container(ctx, request)
	if err != nil {
		if !known && strings.Contains(err.Error(), "runAsNonRoot") {
			err = fmt.Errorf("%w; the image's own user is not known: give --image-config %s=FILE", err, image)
		}
		return Container{}, err
	}
	text, err := encode(built.Spec)
	if err != nil {
		return Container{}, err
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(r.public(string(text))), &spec); err != nil {
		return Container{}, fmt.Errorf("writing the OCI spec: %w", err)
	}
	return Container{Name: built.Name, ID: built.ID(), LogPath: built.LogPath, Spec: &spec}, nil
}

// encode writes JSON without escaping what only browsers mistake.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	return b.Bytes(), nil
}

// podIPs are the pod's own if its status has them, as in what kubectl prints.
func (r *renderer) podIPs(pod *corev1.Pod) []netip.Addr {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	if len(out) > 0 {
		return out
	}
	r.note("the pod's address %v stands for the one that CNI gives (--pod-ip)", r.o.PodIPs)
	return r.o.PodIPs
}

// remark notes what the file leaves open.
func (r *renderer) remark(ctx context.Context, pod *corev1.Pod) {
	from := source{r.objects}
	if _, err := named(r.objects.Services, "services", "default", "kubernetes"); err != nil {
		r.note("Service default/kubernetes is not in the file: the variables KUBERNETES_* are missing")
	}
	for _, v := range pod.Spec.Volumes {
		var err error
		switch {
		case v.ConfigMap != nil && (v.ConfigMap.Optional == nil || !*v.ConfigMap.Optional):
			_, err = from.ConfigMap(ctx, pod.Namespace, v.ConfigMap.Name)
		case v.Secret != nil && (v.Secret.Optional == nil || !*v.Secret.Optional):
			_, err = from.Secret(ctx, pod.Namespace, v.Secret.SecretName)
		}
		if err != nil {
			r.note("volume %s: %v in the file: a pod waits until it is there", v.Name, err)
		}
	}
}

// envFiles stand for what init containers leave in volumes for fileKeyRef.
func (r *renderer) envFiles(pod *corev1.Pod) error {
	for _, c := range podspec.Containers(pod) {
		for _, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			from := e.ValueFrom.FileKeyRef
			root, err := r.volumes.Path(pod, from.VolumeName)
			if err != nil || !strings.HasPrefix(root, r.o.Scratch) || !filepath.IsLocal(from.Path) {
				continue // Build says what is wrong
			}
			if err := appendLine(filepath.Join(root, from.Path), fmt.Sprintf("%s='<%s of file %s in volume %s>'\n", from.Key, from.Key, from.Path, from.VolumeName)); err != nil {
				return err
			}
			r.note("variable %s is a placeholder for what the pod writes into volume %s", e.Name, from.VolumeName)
		}
	}
	return nil
}

func appendLine(path, line string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading an environment file: %w", err)
	}
	if err := os.WriteFile(path, append(have, line...), 0o644); err != nil {
		return fmt.Errorf("writing an environment file: %w", err)
	}
	return nil
}

// check refuses what the API server would never hand to a node, as far as rendering depends on it.
func check(pod *corev1.Pod) error {
	if wrong := validation.IsDNS1123Subdomain(pod.Name); len(wrong) > 0 {
		return fmt.Errorf("metadata.name: %s", wrong[0])
	}
	if wrong := validation.IsDNS1123Label(pod.Namespace); len(wrong) > 0 {
		return fmt.Errorf("metadata.namespace: %s", wrong[0])
	}
	if pod.UID != "" && !uids(string(pod.UID)) {
		return fmt.Errorf("metadata.uid %q must be letters, digits and dashes", pod.UID)
	}
	if len(pod.Spec.Containers) == 0 {
		return errors.New("spec.containers must name at least one container")
	}
	seen := map[string]bool{}
	for _, c := range podspec.Containers(pod) {
		wrong := validation.IsDNS1123Label(c.Name)
		switch {
		case len(wrong) > 0:
			return fmt.Errorf("container name %q: %s", c.Name, wrong[0])
		case seen[c.Name]:
			return fmt.Errorf("container name %q is there twice", c.Name)
		case c.Image == "":
			return fmt.Errorf("container %q has no image", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}

// uids says whether the text can be a UID, which becomes the name of folders.
func uids(text string) bool { return len(validation.IsDNS1123Label(text)) == 0 }
