package pressure

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The signals that thresholds are set on and that a Sample holds, by KubeletConfiguration's names.
const (
	MemoryAvailable  = "memory.available"  // bytes
	NodeFSAvailable  = "nodefs.available"  // bytes of the file system of the agent's root
	NodeFSInodesFree = "nodefs.inodesFree" // inodes of it
	PIDAvailable     = "pid.available"     // processes
)

// Measurement is how much is left of how much.
type Measurement struct{ Available, Total int64 }

// Sample is what was measured at one moment, by signal. A signal that is not measured is missing.
type Sample map[string]Measurement

// Threshold is one eviction threshold: how much of a signal must be left.
type Threshold struct {
	Signal    string
	Condition corev1.NodeConditionType
	Resource  corev1.ResourceName // what the threshold is withheld from; "" for none
	absolute  int64               // bytes, inodes or processes
	fraction  float64             // of the total, when absolute is 0
}

// Least is how much of total must be left.
func (t Threshold) Least(total int64) int64 {
	if t.fraction > 0 {
		return int64(t.fraction * float64(total))
	}
	return t.absolute
}

// ParseThresholds reads evictionHard: quantities and percentages by signal. The result is in order
// of signal.
func ParseThresholds(hard map[string]string) ([]Threshold, error) {
	var out []Threshold
	for _, signal := range slices.Sorted(maps.Keys(hard)) {
		t, err := parseThreshold(signal, hard[signal])
		if err != nil {
			return nil, fmt.Errorf("reading evictionHard: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseThreshold(signal, value string) (Threshold, error) {
	t := Threshold{Signal: signal}
	switch signal {
	case MemoryAvailable:
		t.Condition, t.Resource = corev1.NodeMemoryPressure, corev1.ResourceMemory
	case NodeFSAvailable:
		t.Condition, t.Resource = corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage
	case NodeFSInodesFree, "imagefs.available", "imagefs.inodesFree", "containerfs.available", "containerfs.inodesFree":
		t.Condition = corev1.NodeDiskPressure
	case PIDAvailable:
		t.Condition = corev1.NodePIDPressure
	default:
		return t, fmt.Errorf("signal %q is not known: use memory.available, nodefs.available, nodefs.inodesFree, "+
			"imagefs.available, imagefs.inodesFree, containerfs.available, containerfs.inodesFree or pid.available", signal)
	}
	if percent, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return t, fmt.Errorf("threshold %q of %s is not a percentage between 0 and 100", value, signal)
		}
		t.fraction = p / 100
		return t, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		return t, fmt.Errorf("threshold %q of %s is not a quantity: %w", value, signal, err)
	}
	t.absolute = q.Value()
	return t, nil
}

// Seen is when each condition was last measured.
type Seen map[corev1.NodeConditionType]time.Time

// Observe compares a sample with the thresholds, and returns what was seen until now. It does not
// change seen.
func Observe(seen Seen, thresholds []Threshold, s Sample, now time.Time) Seen {
	out := maps.Clone(seen)
	if out == nil {
		out = Seen{}
	}
	for _, t := range thresholds {
		if m, ok := s[t.Signal]; ok && m.Available < t.Least(m.Total) {
			out[t.Condition] = now
		}
	}
	return out
}

// Holds says whether the node reports a condition: it stays for the transition period after it was
// last seen, so that the scheduler does not follow every swing. A transition of 0 means 5 minutes.
func (s Seen) Holds(c corev1.NodeConditionType, transition time.Duration, now time.Time) bool {
	at, ok := s[c]
	return ok && now.Sub(at) <= cmp.Or(transition, 5*time.Minute)
}
