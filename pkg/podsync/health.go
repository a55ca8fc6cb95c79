package podsync

import (
	"fmt"
	"time"
)

// patience is how long the loop may be silent before it counts as stuck. It looks at each pod
// every minute; kubelet's bound is the same.
const patience = 5 * time.Minute

// Healthy returns an error when the loop has been silent for too long.
func (l *Loop) Healthy() error {
	last := l.LastSeen()
	if silent := l.config.Now().Sub(last); !last.IsZero() && silent > patience {
		return fmt.Errorf("the pods' loop has been silent for %s", silent.Round(time.Second))
	}
	return nil
}
