// Package plugins is WIRING: the one list of the volume kinds that the agent has. The agent, reset
// and the preview make their volumes from it.
package plugins

import (
	"errors"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/downwardapi"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/emptydir"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/hostpath"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/projected"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
)

// New makes the plugin of every kind. objects is where those that show API objects read them.
func New(objects volume.Objects) ([]volume.Plugin, error) {
	configMaps, err1 := configmap.New(objects)
	secrets, err2 := secret.New(objects)
	sources, err3 := projected.New(objects)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return []volume.Plugin{configMaps, secrets, sources, emptydir.Plugin{}, hostpath.Plugin{}, downwardapi.New()}, nil
}
