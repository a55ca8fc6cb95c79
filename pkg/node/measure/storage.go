package measure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
)

// podTime bounds the measurement of one pod, which could go on filling a folder meanwhile.
const podTime = 30 * time.Second

// Layers measures the writable layers of containers, in bytes.
type Layers interface {
	WritableBytes(ctx context.Context, containerID string) (int64, error)
}

// PodFiles are the places on the node's disk that belong to one pod.
type PodFiles struct {
	Containers []ContainerFiles
	Volumes    map[string]string // folders by volume name
	Files      []string          // what containers can write to besides: /etc/hosts, termination messages
}

// ContainerFiles are those of one container.
type ContainerFiles struct{ Name, ID, Logs string }

// Storage measures what a pod takes of the disk. Beside an error it returns what could be
// measured.
func Storage(ctx context.Context, l Layers, f PodFiles) (pressure.Usage, error) {
	used := pressure.Usage{Containers: map[string]int64{}, Volumes: map[string]int64{}}
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	var errs []error
	add := func(into map[string]int64, name string, bytes int64, err error) {
		into[name] += bytes
		if err != nil {
			errs = append(errs, fmt.Errorf("measuring %q: %w", name, err))
		}
	}
	for _, c := range f.Containers {
		bytes, err := l.WritableBytes(ctx, c.ID)
		add(used.Containers, c.Name, bytes, err)
		bytes, err = hostfs.DiskUsage(ctx, c.Logs)
		add(used.Containers, c.Name, bytes, err)
	}
	for name, path := range f.Volumes {
		bytes, err := hostfs.DiskUsage(ctx, path)
		add(used.Volumes, name, bytes, err)
	}
	for _, path := range f.Files {
		bytes, err := hostfs.DiskUsage(ctx, path)
		used.Files += bytes
		if err != nil {
			errs = append(errs, err)
		}
	}
	return used, errors.Join(errs...)
}
