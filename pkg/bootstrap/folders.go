package bootstrap

import (
	"fmt"
	"io/fs"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// MakeFolders makes the daemon's folders that are missing. It runs before everything else, so that
// the start fails with the reason when one cannot be made. Paths stay as they are given, links
// included: pods name them.
func MakeFolders(c *config.Config) error {
	type folder struct {
		field, path string
		mode        fs.FileMode
	}
	folders := []folder{
		{"rootDir", c.Paths.Root, 0o750}, {"runDir", c.Paths.Run, 0o755}, {"certDir", c.Identity.CertDir, 0o700},
	}
	if c.Pods.Enabled {
		folders = append(folders, folder{"podLogsDir", c.Paths.PodLogs, 0o755}, folder{"containerLogsDir", c.Paths.ContainerLogs, 0o755})
		if c.Paths.StaticPods != "" {
			folders = append(folders, folder{"staticPodPath", c.Paths.StaticPods, 0o755})
		}
	}
	for _, f := range folders {
		if err := hostfs.MakeFolder(f.path, f.mode); err != nil {
			return fmt.Errorf("%w (%s in the configuration names it)", err, f.field)
		}
	}
	return nil
}
