// Package footprint is EDGE: the memory of the agent's own process. It says how much is resident,
// and gives back what a burst of work or the start has left: free heap, and pages of the program's
// file. It reads /proc/self and changes nothing but that.
package footprint

import (
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
)

// A trim must be expected to give back minShare of the live heap, and at least minBytes: a
// collection is not free.
const (
	minShare = 0.125
	minBytes = 4 << 20
)

// Trim gives memory back to the machine after a burst of work. Writing the rules of thousands of
// Services makes much garbage. The collector would keep it until the heap has grown by half again,
// or for two minutes; when nothing changes any more, others on the node need it.
func Trim() {
	if worthTrimming(heap()) {
		debug.FreeOSMemory()
	}
}

// heap returns what was live at the last collection, and what could be freed besides: objects made
// since, and free pages that were not given back.
func heap() (live, spare uint64) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	live, objects, free := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
	return live, free + max(objects, live) - live
}

func worthTrimming(live, spare uint64) bool {
	return spare >= minBytes && float64(spare) >= minShare*float64(live)
}

// Resident is the process's resident memory in bytes (second field of proc_pid_statm(5)); 0 when
// the kernel does not tell.
func Resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
