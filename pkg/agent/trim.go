package agent

import (
	"runtime/debug"
	"runtime/metrics"
)

// trimShare of the live heap, and at least trimBytes, are what a trim must be expected to give
// back: a collection is not free.
const (
	trimShare = 0.125
	trimBytes = 4 << 20
)

// trim gives memory back to the machine after a burst of work. Writing the rules of thousands of
// Services makes much garbage, which the collector would keep until the heap has grown by half
// again, or for two minutes: on a node where nothing changes now, others need it more.
func trim() {
	if worthTrimming(heap()) {
		debug.FreeOSMemory()
	}
}

// heap tells what was live at the last collection, and what could be had besides: objects made
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
	return spare >= trimBytes && float64(spare) >= trimShare*float64(live)
}
