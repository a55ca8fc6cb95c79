package wallclock

import (
	"testing"
	"time"
)

func TestSet(t *testing.T) {
	now := time.Now()
	for _, by := range []time.Duration{2 * time.Hour, -2 * time.Hour, 0, -24 * 365 * time.Hour} {
		set := Set(now, by)
		if monotonic, wall := set.Sub(now), set.Round(0).Sub(now.Round(0)); monotonic != 0 || wall != by {
			t.Errorf("set by %s: the monotonic reading moved by %s, the wall reading by %s", by, monotonic, wall)
		}
		if later := set.Add(time.Minute); later.Sub(now) != time.Minute || later.Round(0).Sub(now.Round(0)) != by+time.Minute {
			t.Errorf("set by %s: a minute later it is %s", by, later)
		}
	}
}
