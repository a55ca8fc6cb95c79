package pressure

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestParseThreshold(t *testing.T) {
	for _, c := range []struct {
		signal, value string
		of200         int64 // -1: refused
	}{
		{"memory.available", "100", 100},
		{"nodefs.available", "10%", 20},
		{"pid.available", "0%", 0},
		{"memory.free", "1", -1},
		{"memory.available", "-1", -1},
		{"memory.available", "101%", -1},
		{"memory.available", "NaN%", -1},
	} {
		th, err := parseThreshold(c.signal, c.value)
		if (err != nil) != (c.of200 < 0) || (err == nil && th.Least(200) != c.of200) {
			t.Errorf("%s=%s is %d of 200, error %v; want %d", c.signal, c.value, th.Least(200), err, c.of200)
		}
	}
}

// TestConditionStaysForTheTransitionPeriod, and an observation does not change the one before.
func TestConditionStaysForTheTransitionPeriod(t *testing.T) {
	thresholds, err := ParseThresholds(map[string]string{MemoryAvailable: "100", PIDAvailable: "1"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	low, fine := Sample{MemoryAvailable: {99, 1000}}, Sample{MemoryAvailable: {100, 1000}}
	none := Observe(nil, thresholds, fine, now)
	seen := Observe(none, thresholds, low, now)
	if len(none) != 0 || len(seen) != 1 {
		t.Errorf("seen %v, before that %v", seen, none)
	}
	seen = Observe(seen, thresholds, fine, now.Add(time.Minute))
	for after, want := range map[time.Duration]bool{time.Minute: true, time.Minute + 1: false} {
		if got := seen.Holds(corev1.NodeMemoryPressure, time.Minute, now.Add(after)); got != want {
			t.Errorf("after %s the condition holds: %v, want %v", after, got, want)
		}
	}
	if !seen.Holds(corev1.NodeMemoryPressure, 0, now.Add(5*time.Minute)) || seen.Holds(corev1.NodePIDPressure, 0, now) {
		t.Error("the default transition period is not 5 minutes, or a condition holds that was never seen")
	}
}
