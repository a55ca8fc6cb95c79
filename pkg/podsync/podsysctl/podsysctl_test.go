package podsysctl_test

import (
	"testing"

	"github.com/nodeagent/nodeagent/pkg/podsync/podsysctl"
)

func TestCheckAllowed(t *testing.T) {
	for _, name := range []string{"vm.swappiness", "kernel.*", "*", "", "fs.file-max", "net.core.somaxconn, kernel.sem", "net.core somaxconn", "net.*.x"} {
		if podsysctl.CheckAllowed(name) == nil {
			t.Errorf("%q was allowed", name)
		}
	}
	for _, name := range []string{"net.core.somaxconn", "net/core/somaxconn", "kernel.shm*", "kernel.msgmax", "fs.mqueue.*", "net.*"} {
		if err := podsysctl.CheckAllowed(name); err != nil {
			t.Error(err)
		}
	}
}
