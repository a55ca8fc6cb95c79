package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// many is a list of specs, the n-th of which lasts n seconds.
func many(n int) (names []string, d Durations) {
	d = Durations{}
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("[sig-node] spec %d (of many)", i)
		names, d[name] = append(names, name), time.Duration(i)*time.Second
	}
	return names, d
}

func TestPick(t *testing.T) {
	listed, d := many(200)
	chosen := map[string]int{}
	const seeds = 200
	for seed := range seeds {
		got, _ := Pick(listed, d, fmt.Sprint(seed), 10*time.Minute, 3)
		var sum time.Duration
		for _, name := range got {
			sum += d.Of(name)
			chosen[name]++
		}
		if sum > 30*time.Minute || sum < 28*time.Minute {
			t.Errorf("seed %d: specs of %s, want half an hour's, three at a time", seed, sum)
		}
		reversed := slices.Clone(listed)
		slices.Reverse(reversed)
		if again, _ := Pick(reversed, d, fmt.Sprint(seed), 10*time.Minute, 3); !slices.Equal(again, got) {
			t.Errorf("seed %d: another order of the list gives other specs", seed)
		}
	}
	for _, name := range listed {
		if chosen[name] == 0 {
			t.Errorf("%d seeds never choose %s", seeds, name)
		}
	}
}

func TestPickTooLong(t *testing.T) {
	d := Durations{"long": 11 * time.Minute, "short": time.Second, "measured [Slow]": 9 * time.Minute}
	chosen, tooLong := Pick([]string{"long", "short", "never measured", "measured [Slow]", "unmeasured [Slow]"}, d, "x", 10*time.Minute, 3)
	if !slices.Equal(chosen, []string{"measured [Slow]", "never measured", "short"}) || !slices.Equal(tooLong, []string{"long", "unmeasured [Slow]"}) {
		t.Errorf("got %q, and too long are %q", chosen, tooLong)
	}
}

func TestFocus(t *testing.T) {
	focus := regexp.MustCompile(Focus([]string{"[sig-node] a (b)", "[sig-node] c"}))
	for text, want := range map[string]bool{
		"Kubernetes e2e suite [sig-node] a (b)": true, "Kubernetes e2e suite [sig-node] c": true,
		"Kubernetes e2e suite [sig-node] c more": false, "Kubernetes e2e suite [sig-node] a b": false,
	} {
		if got := focus.MatchString(text); got != want {
			t.Errorf("%q: selected is %t", text, got)
		}
	}
}

func TestDurations(t *testing.T) {
	d := Durations{"a": 90 * time.Second}
	d.Learn(reportOf(t, "passed b", "failed c: why"))
	var text strings.Builder
	if err := WriteDurations(&text, "How long.", d); err != nil {
		t.Fatal(err)
	}
	back, err := ParseDurations(strings.NewReader(text.String()))
	if err != nil || back["a"] != 90*time.Second || back["[sig-node] Pods b"] != 2*time.Second || len(back) != 2 {
		t.Errorf("got %v, %v from\n%s", back, err, text.String())
	}
	for _, bad := range []string{"x a", "0 a", "3", "-1 a"} {
		if got, err := ParseDurations(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

// TestRetried: a second try excuses what it passes, names it with the first failure, and excuses no
// more than a few.
func TestRetried(t *testing.T) {
	first := reportOf(t, "passed a", "failed b: too late", "failed c: broken")
	merged, unstable := first.Retried(reportOf(t, "passed b", "failed c: broken"))
	v := Judge([]string{"[sig-node] Pods a", "[sig-node] Pods b", "[sig-node] Pods c"}, merged)
	v.Unstable = unstable
	if v.OK() || !slices.Equal(Names(v.Regressed), []string{"[sig-node] Pods c"}) || !slices.Equal(Names(v.Passed), []string{"[sig-node] Pods a", "[sig-node] Pods b"}) {
		t.Errorf("got %+v", v)
	}
	if s := v.Summary(); !strings.Contains(s, "UNSTABLE") || !strings.Contains(s, "too late") || !strings.Contains(s, "1 regressed, 1 unstable") {
		t.Errorf("the summary does not tell:\n%s", s)
	}
	v.Regressed = nil
	if !v.OK() {
		t.Error("one unstable spec fails the run")
	}
	if v.Unstable = append(v.Unstable, v.Unstable...); v.OK() {
		t.Error("two of three specs needed a second try, and all is fine")
	}
	if Unsteady(3, 60) || !Unsteady(4, 60) {
		t.Error("the limit is one in twenty")
	}
}
