package facts

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// threshold is one eviction threshold: a signal and how much of it must be left.
type threshold struct {
	signal    string
	condition corev1.NodeConditionType
	resource  corev1.ResourceName // that the threshold is withheld from; "" for none
	absolute  int64               // bytes, inodes or processes
	fraction  float64             // of the total, when absolute is 0
}

// of is the least that must be left of total.
func (t threshold) of(total int64) int64 {
	if t.fraction > 0 {
		return int64(t.fraction * float64(total))
	}
	return t.absolute
}

// parseThreshold reads one entry of evictionHard: a quantity or a percentage (KubeletConfiguration
// v1beta1).
func parseThreshold(signal, value string) (threshold, error) {
	t := threshold{signal: signal}
	switch signal {
	case "memory.available":
		t.condition, t.resource = corev1.NodeMemoryPressure, corev1.ResourceMemory
	case "nodefs.available":
		t.condition, t.resource = corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage
	case "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "containerfs.available", "containerfs.inodesFree":
		t.condition = corev1.NodeDiskPressure
	case "pid.available":
		t.condition = corev1.NodePIDPressure
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

// measurement is how much is left of how much.
type measurement struct{ available, total int64 }

// measure reads what thresholds are compared with. The image store is not measured: it is
// containerd's, and usually on the node's own file system.
func (r Reader) measure(disk Disk) (map[string]measurement, error) {
	b, err := os.ReadFile(r.path("/proc/meminfo"))
	if err != nil {
		return nil, fmt.Errorf("measuring free memory: %w", err)
	}
	values := map[string]int64{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			values[strings.TrimSuffix(f[0], ":")] = kib << 10
		}
	}
	out := map[string]measurement{
		"memory.available":  {values["MemAvailable"], values["MemTotal"]},
		"nodefs.available":  {disk.FreeBytes, disk.Bytes},
		"nodefs.inodesFree": {disk.FreeInodes, disk.Inodes},
	}
	pids, err := r.processes()
	if err != nil {
		return nil, err
	}
	out["pid.available"] = pids
	return out, nil
}

// processes are the threads that exist (fourth field of proc_loadavg(5)) and may exist.
func (r Reader) processes() (measurement, error) {
	load, err := r.line("/proc/loadavg")
	if err != nil {
		return measurement{}, err
	}
	most, err := r.line("/proc/sys/kernel/pid_max")
	if err != nil {
		return measurement{}, err
	}
	total, err := strconv.ParseInt(most, 10, 64)
	if err != nil {
		return measurement{}, fmt.Errorf("reading pid_max %q: %w", most, err)
	}
	f := strings.Fields(load)
	if len(f) < 4 {
		return measurement{}, fmt.Errorf("reading the number of threads: %q has no fourth field", load)
	}
	_, threads, _ := strings.Cut(f[3], "/")
	n, err := strconv.ParseInt(threads, 10, 64)
	if err != nil {
		return measurement{}, fmt.Errorf("reading the number of threads in %q: %w", load, err)
	}
	return measurement{total - n, total}, nil
}
