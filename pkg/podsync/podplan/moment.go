package podplan

import (
	"time"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// observeTimes turns what records and the API tell of the past into own moments.
func (m *Memory) observeTimes(want Want, have Have, now time.Time) {
	if m.Began.IsZero() {
		m.Began = now
	}
	if start := want.Reported.StartTime; start != nil && !m.startReported {
		m.Began, m.startReported = earlier(m.Began, podspec.OwnMoment(start.Time, now)), true
	}
	for i := range have.Runtime.Containers {
		c := &have.Runtime.Containers[i]
		if _, known := m.Ends[c.ID]; !known && c.State == runtime.Exited {
			m.Ends[c.ID] = podspec.OwnMoment(c.FinishedAt, now)
		}
	}
}

// observeLost does the same for containers of which only the API has a record, and forgets what no
// record is of any more.
func (m *Memory) observeLost(v View, have Have) {
	lost := map[string]bool{}
	for i := range v.Containers {
		if c := &v.Containers[i]; c.Exit != nil && c.Exit.Lost {
			lost[lostKey(c.Spec.Name)] = true
			m.Ends[lostKey(c.Spec.Name)] = c.Exit.Ended
		}
	}
	for key := range m.Ends {
		if !lost[key] && !holds(have.Runtime, key) {
			delete(m.Ends, key)
		}
	}
}

// lostKey stands in Memory.Ends for the id of a container that the host has no record of.
func lostKey(name string) string { return "lost/" + name }

// ended is the own moment at which an attempt ended, by the key that it has in Ends and by its
// record.
func (m *Memory) ended(key string, finished, now time.Time) time.Time {
	if at, known := m.Ends[key]; known {
		return at
	}
	return podspec.OwnMoment(finished, now)
}
