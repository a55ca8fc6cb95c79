package podplan

import "time"

// Delays of what is tried again. Those of restarts and image pulls are kubelet's, and people know
// them.
const (
	crashInitial, crashMax     = 10 * time.Second, 300 * time.Second
	imageInitial, imageMax     = 10 * time.Second, 300 * time.Second
	startInitial, startMax     = 10 * time.Second, 10 * time.Second
	sandboxInitial, sandboxMax = time.Second, 10 * time.Second
	volumeInitial, volumeMax   = 500 * time.Millisecond, 30 * time.Second
	removeInitial, removeMax   = time.Second, time.Minute
	signalInitial, signalMax   = time.Second, 5 * time.Second
	resizeInitial, resizeMax   = 5 * time.Second, time.Minute

	// minWindow is what a container always has between its stop signal and SIGKILL.
	minWindow = 2 * time.Second
	// killAgain is when SIGKILL is sent again to what still runs.
	killAgain = 10 * time.Second
	minGrace  = time.Second
	// holdStatus is how long the status waits for the successor of a container that was replaced:
	// as long as kubelet takes to notice either.
	holdStatus = time.Second
	// ErrorShown is how long a failed pull shows its own reason before it shows that of its
	// back-off.
	ErrorShown = 2 * time.Second
)

// Doubling is the delay after count failures in a row: first, then twice the one before, up to
// limit; 0 for no failure.
func Doubling(count int, first, limit time.Duration) time.Duration {
	if count <= 0 {
		return 0
	}
	delay := first
	for i := 1; i < count && delay < limit; i++ {
		delay *= 2
	}
	return min(delay, limit)
}

// until is when what failed may be tried again; zero when it may be now.
func (f FailureState) until(first, limit time.Duration) time.Time {
	if f.Count == 0 {
		return time.Time{}
	}
	return f.At.Add(Doubling(f.Count, first, limit))
}

// ImageRetry is when a failed pull is tried again.
func (s ImageState) ImageRetry() time.Time { return s.Failure.until(imageInitial, imageMax) }

// CrashDelay is how long a container that finished at this time waits before it is started again:
// nothing after its first end and after a quiet time, else 10 s, doubling up to longest with each
// restart.
func (s CrashState) CrashDelay(finished time.Time, longest time.Duration) time.Duration {
	if s.expired(finished, longest) {
		return 0
	}
	return min(s.Delay, longest)
}

// next is the delay that follows a restart after an end at this time.
func (s CrashState) next(finished time.Time, longest time.Duration) time.Duration {
	if s.expired(finished, longest) {
		return min(crashInitial, longest)
	}
	return min(2*s.Delay, longest)
}

// expired says that the container ended so long after its last restart that its back-off begins
// anew.
func (s CrashState) expired(finished time.Time, longest time.Duration) bool {
	return s.Delay == 0 || finished.Sub(s.LastRestart) > 2*longest
}

// crashMax is the longest back-off of a crash loop.
func (w *Want) crashMax() time.Duration {
	if w.CrashMax > 0 {
		return w.CrashMax
	}
	return crashMax
}
