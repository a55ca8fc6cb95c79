package proxier

import (
	"context"
	"time"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

const (
	// firstLeave and lastLeave bound the pause before a Leaver is called again; it doubles.
	firstLeave = 2 * time.Second
	lastLeave  = time.Minute
)

// leave has the other modes leave after the first sync: until then packets need their rules.
func (l *Loop) leave(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.firstDone:
	}
	waiting := l.c.Others
	for pause := firstLeave; ; pause = min(2*pause, lastLeave) {
		waiting = l.ask(ctx, waiting)
		if len(waiting) == 0 || sleep.For(ctx, pause) != nil {
			return
		}
	}
}

// ask returns those that have to be called again.
func (l *Loop) ask(ctx context.Context, all []Leaver) []Leaver {
	var again []Leaver
	for _, other := range all {
		connections, err := other.Leave(ctx)
		if err != nil && ctx.Err() == nil {
			l.c.Log.Error("Removing the rules of another proxy mode failed", "family", l.c.Family, "err", err)
		}
		if err != nil || connections > 0 {
			again = append(again, other)
		}
	}
	return again
}
