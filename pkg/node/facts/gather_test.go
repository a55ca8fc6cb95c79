package facts

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// hung answers nothing before its caller's patience is at an end.
type hung struct{ all bool }

func (h hung) Ready(ctx context.Context) error {
	if h.all {
		<-ctx.Done()
	}
	return ctx.Err()
}
func (hung) Version() string { return "containerd://2" }
func (hung) Images(ctx context.Context) ([]runtime.Image, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hung) Status(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A runtime or a network that hangs does not keep the node's status from being reported; it is
// what is reported.
func TestNobodyIsWaitedForWithoutEnd(t *testing.T) {
	for name, r := range map[string]hung{"list of images": {}, "all": {all: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, err := NewGatherer(Config{
					Config: &config.Config{
						Node: config.Node{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, Paths: config.Paths{Root: t.TempDir()},
					},
					Reader: root(t, machine("1024")), Sample: sample(t, "1024"), Runtime: r, Network: r, Now: time.Now,
				})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				f, err := g.Facts(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("the facts took %s", took)
				}
				if f.Conditions.NetworkError == "" {
					t.Error("the network that hangs is not told")
				}
				if got := f.Conditions.RuntimeError; (got != "") != r.all {
					t.Errorf("the runtime's error is %q", got)
				} else if r.all && !strings.Contains(got, "deadline exceeded") {
					t.Errorf("the runtime's error is %q", got)
				}
			})
		})
	}
}
