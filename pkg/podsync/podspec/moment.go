package podspec

import "time"

// OwnMoment converts a time that somebody else wrote down (a record on the host, the API's status)
// into a moment of the agent's own clock: as long before now as the wall clock says, and never
// after now. Waiting counts from own moments only. They carry Go's monotonic reading, so nothing
// waits longer or shorter because somebody sets the machine's clock. The agent converts a time
// once, when it first sees it, and keeps the result.
func OwnMoment(then, now time.Time) time.Time {
	return now.Add(-max(0, now.Sub(then)))
}
