package bed

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/bed/images"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// Images that are enough for most tests. They consist of Debian packages alone and take seconds to
// build.
const (
	Pause   = "registry.k8s.io/pause:3.10.2"
	Busybox = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
)

// BuildImages assembles images by reference (none means all that the Kubernetes e2e suite names)
// with the programs that they contain, and returns the archives to import.
func BuildImages(ctx context.Context, b *tools.Builder, refs ...string) ([]string, error) {
	var paths images.ToolPaths
	if len(refs) == 0 || slices.ContainsFunc(refs, func(r string) bool { return !onlyDebian(r) }) {
		p, err := b.Build(ctx, "agnhost", "nonewprivs", "resource-consumer", "consume-cpu", "regression-issue-74839", "coredns")
		if err != nil {
			return nil, err
		}
		paths = images.ToolPaths{
			Agnhost: p.Get("agnhost"), Nonewprivs: p.Get("nonewprivs"), ResourceConsumer: p.Get("resource-consumer"),
			ConsumeCPU: p.Get("consume-cpu"), Regression74839: p.Get("regression-issue-74839"), CoreDNS: p.Get("coredns"),
		}
	}
	built, err := images.Build(ctx, b.Cache, paths, refs...)
	if err != nil {
		return nil, fmt.Errorf("assembling images: %w", err)
	}
	return images.Archives(built), nil
}

// onlyDebian reports whether an image needs no program built here.
func onlyDebian(ref string) bool {
	name, _, _ := strings.Cut(filepath.Base(ref), ":")
	return name == "busybox" || name == "pause"
}

// LoadImages assembles images like BuildImages and imports them into every node.
func (c *Cluster) LoadImages(ctx context.Context, refs ...string) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes() {
		g.Go(func() error { return n.LoadImages(gctx, refs...) })
	}
	return g.Wait()
}

// LoadImages assembles images like BuildImages and imports them into the node.
func (n *Node) LoadImages(ctx context.Context, refs ...string) error {
	archives, err := BuildImages(ctx, n.cluster.Builder(), refs...)
	if err != nil {
		return err
	}
	for _, a := range archives {
		if err := n.ImportImage(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
