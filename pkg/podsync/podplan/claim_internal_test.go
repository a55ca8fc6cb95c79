package podplan

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// imaginary are the rules with two kinds that the product does not have: an id range that the
// sandbox waits for, and a device that a volume is needed for.
func imaginary() []rule {
	one := func(name string) func(*corev1.Pod) iter.Seq[string] {
		return func(*corev1.Pod) iter.Seq[string] { return slices.Values([]string{name}) }
	}
	return append(rules(),
		rule{kind: "idrange", names: one("ids"), sandboxWaits: true, first: time.Second, most: time.Minute},
		rule{kind: "device", names: one("gpu"), needs: []Kind{Volume}, after: []Kind{Volume}, first: time.Second, most: time.Minute},
	)
}

// keys plans one step with the imaginary rules and returns the keys of its actions.
func keys(w Want, s State, o Observed, now time.Time) string {
	v := viewer{want: &w, state: &s, observed: &o, now: now}
	view := v.view()
	p := planner{viewer: v, view: &view, rules: imaginary()}
	if view.Ends {
		p.end()
	} else {
		p.live()
	}
	var out []string
	for _, a := range p.plan.Actions {
		out = append(out, a.Key())
	}
	return fmt.Sprint(out)
}

// The order among kinds is data: what a kind needs, what waits for it, and what is released before.
func TestRulesOfClaims(t *testing.T) {
	now := time.Now()
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "i"}}, Volumes: []corev1.Volume{{Name: "data"}}}}
	want := Want{UID: "u", Pod: pod}
	sandbox := &runtime.Sandbox{ID: "s", Ready: true}
	done := ClaimState{Prepared: true}
	images := Table[ImageState]{"app": {Ref: "i", ImageID: "id"}}
	failed := ClaimState{Failure: FailureState{}.after(errors.New("no"), "", now)}
	for _, c := range []struct {
		claims  Table[ClaimState]
		sandbox *runtime.Sandbox
		want    string
	}{
		{nil, nil, "[volume/data idrange/ids]"},
		{Table[ClaimState]{"volume/data": done}, nil, "[idrange/ids device/gpu]"},
		{Table[ClaimState]{"idrange/ids": done}, nil, "[volume/data sandbox]"},
		{Table[ClaimState]{"idrange/ids": done, "volume/data": failed}, sandbox, "[]"},
		{Table[ClaimState]{"idrange/ids": done, "volume/data": done}, sandbox, "[device/gpu]"},
		{Table[ClaimState]{"idrange/ids": done, "volume/data": done, "device/gpu": done}, sandbox, "[container/app]"},
	} {
		if got := keys(want, State{Claims: c.claims, Images: images}, Observed{Runtime: runtime.Pod{Sandbox: c.sandbox}}, now); got != c.want {
			t.Errorf("with claims %v, sandbox %v: %s, want %s", c.claims, c.sandbox != nil, got, c.want)
		}
	}

	orphan := Want{UID: types.UID("u")} // everything goes, and nobody knows its spec
	for _, c := range []struct {
		held    []Kind
		running string
		want    string
	}{
		{[]Kind{Volume, Cgroup, Folder, "device"}, "", "[release/volume]"},
		{[]Kind{Cgroup, Folder, "device"}, "", "[release/folder release/device]"},
		{[]Kind{Cgroup}, "", "[release/folder]"}, // it takes the cgroup along
		{[]Kind{Volume}, "volume/data", "[]"},
		{[]Kind{Folder, "device"}, "hook/x", "[release/device]"},
	} {
		o := Observed{Held: c.held, Running: map[string]bool{}}
		if c.running != "" {
			o.Running[c.running] = true
		}
		if got := keys(orphan, State{}, o, now); got != c.want {
			t.Errorf("held %v, running %q: %s, want %s", c.held, c.running, got, c.want)
		}
	}
}
