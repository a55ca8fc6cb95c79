package containerd

import (
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(t testing.TB) runtimetest.Subject {
		h := newHost(t)
		return runtimetest.Subject{
			Runtime: h.start(), Image: testImage, Spec: h.spec, LogDir: h.path("logs"),
			Restart: func(testing.TB) runtime.Runtime { return h.restart() },
		}
	})
}
