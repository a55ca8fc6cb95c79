package secret_test

import (
	"os"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func TestMain(m *testing.M) { os.Exit(volumetest.Main(m)) }
