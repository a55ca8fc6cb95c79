// Package images is EDGE: it assembles, without a registry, the container images that the
// Kubernetes e2e suite names.
//
// It reads a Debian tree and the programs built by the tools modules, and writes OCI layout
// archives into a cache folder, in which each image carries its reference in the annotation
// io.containerd.image.name: after `ctr -n k8s.io images import FILE` the images are known under the
// names that the suite asks for. Layers are shared (one Debian, one busybox) and everything has a
// fixed time, so the same inputs make the same digests. The images do what the real ones do as far
// as the suite looks; they are not copies of them. It never talks to an image registry and never
// writes outside the cache folder.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/test/bed/debian"
)

// ToolPaths locates the statically linked programs that go into the images. Only those that the
// images asked for need must be set.
type ToolPaths struct {
	Agnhost          string // k8s.io/kubernetes/test/images/agnhost
	Nonewprivs       string // k8s.io/kubernetes/test/images/nonewprivs
	ResourceConsumer string // k8s.io/kubernetes/test/images/resource-consumer
	ConsumeCPU       string // k8s.io/kubernetes/test/images/resource-consumer/consume-cpu; optional
	Regression74839  string // k8s.io/kubernetes/test/images/regression-issue-74839
	CoreDNS          string // github.com/coredns/coredns, /coredns of agnhost; optional, 70 MB
}

// Build assembles the named images (none means E2E()) and returns reference → path of the OCI
// layout archive that holds it. All the images of one call are in one archive, which therefore is
// to be imported once: see Archives. What the cache holds for the same inputs is not made again;
// concurrent calls, also of several processes, take turns.
func Build(ctx context.Context, cacheDir string, tools ToolPaths, names ...string) (map[string]string, error) {
	if len(names) == 0 {
		names = E2E()
	}
	return build(ctx, cacheDir, tools, recipes(), names)
}

// BuildSmall assembles, under the same names, images that a slow machine imports in seconds: pause,
// busybox and an agnhost without Debian's tools. Workloads that only serve, sleep or run a shell
// work with them.
func BuildSmall(ctx context.Context, cacheDir string, tools ToolPaths) (map[string]string, error) {
	all := smallRecipes()
	return build(ctx, cacheDir, tools, all, sorted(all))
}

// Archives returns the different archives of a Build, sorted: what to import.
func Archives(built map[string]string) []string {
	var out []string
	for _, path := range built {
		out = append(out, path)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func build(ctx context.Context, cacheDir string, tools ToolPaths, known map[string]recipe, names []string) (map[string]string, error) {
	cacheDir, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, fmt.Errorf("resolving cache folder %q: %w", cacheDir, err)
	}
	folder := filepath.Join(cacheDir, "images")
	unlock, err := debian.Lock(ctx, filepath.Join(folder, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	b := &builder{cache: cacheDir, folder: folder, tools: tools, layers: map[string]blob{}}
	for name, dst := range map[string]*string{"pause": &b.pause, "sh": &b.sh} {
		if *dst, err = buildOwn(ctx, folder, name); err != nil {
			return nil, err
		}
	}
	key, err := b.key(known, names)
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(folder, "images-"+key+".tar")
	if _, err := os.Stat(archive); err != nil {
		if err := b.archive(ctx, archive, known, names); err != nil {
			return nil, err
		}
	}
	out := make(map[string]string, len(names))
	for _, n := range names {
		out[n] = archive
	}
	return out, debian.Used(archive, "images-*.tar")
}

// builder makes one archive.
type builder struct {
	cache, folder string
	tools         ToolPaths
	pause, sh     string // our own programs
	tree          *debianTree
	layers        map[string]blob // by name
}

// recipesVersion is raised when the code makes other layers of the same inputs.
const recipesVersion = 3

// key names everything that the archive depends on.
func (b *builder) key(known map[string]recipe, names []string) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, recipesVersion, debian.Key(treePackages), basePackages)
	for _, n := range names {
		r, ok := known[n]
		if !ok {
			return "", fmt.Errorf("assembling image %q: unknown; known are %s", n, strings.Join(sorted(known), ", "))
		}
		_, _ = fmt.Fprintf(h, "%s %v %+v\n", n, r.layers, r.config)
	}
	for _, p := range []string{b.pause, b.sh, b.tools.Agnhost, b.tools.Nonewprivs, b.tools.ResourceConsumer, b.tools.ConsumeCPU, b.tools.Regression74839, b.tools.CoreDNS} {
		_, _ = fmt.Fprintln(h, filepath.Base(p))
		if p == "" {
			continue
		}
		if err := hashFile(h, p); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func hashFile(h io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening a program for images: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("reading a program for images: %w", err)
	}
	return nil
}

func (b *builder) archive(ctx context.Context, path string, known map[string]recipe, names []string) error {
	defer b.removeLayers()
	var all []assembled
	for _, n := range names {
		var layers []blob
		for _, name := range known[n].layers {
			l, err := b.layer(ctx, name)
			if err != nil {
				return fmt.Errorf("assembling image %q: %w", n, err)
			}
			layers = append(layers, l)
		}
		a, err := assemble(n, known[n].config, layers)
		if err != nil {
			return fmt.Errorf("assembling image %q: %w", n, err)
		}
		all = append(all, a)
	}
	return writeArchive(path, all)
}

// layer makes a layer by its name, once a builder.
func (b *builder) layer(ctx context.Context, name string) (blob, error) {
	if l, ok := b.layers[name]; ok {
		return l, nil
	}
	entries, err := b.entries(ctx, name)
	if err != nil {
		return blob{}, fmt.Errorf("making layer %q: %w", name, err)
	}
	l, err := writeLayer(ctx, b.folder, withFolders(entries))
	if err != nil {
		return blob{}, fmt.Errorf("making layer %q: %w", name, err)
	}
	b.layers[name] = l
	return l, nil
}

func (b *builder) removeLayers() {
	for _, l := range b.layers {
		_ = os.Remove(l.path)
	}
}

// debian opens the tree when the first layer needs it.
func (b *builder) debian(ctx context.Context) (*debianTree, error) {
	if b.tree == nil {
		t, err := openTree(ctx, b.cache)
		if err != nil {
			return nil, err
		}
		b.tree = t
	}
	return b.tree, nil
}

// buildOwn builds a program from the folder of its name here, reproducibly.
func buildOwn(ctx context.Context, folder, name string) (string, error) {
	out := filepath.Join(folder, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out,
		"github.com/nodeagent/nodeagent/test/bed/images/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", name, err, strings.TrimSpace(string(msg)))
	}
	return out, nil
}
