package containerconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/fieldref"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/podfiles"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig/serviceenv"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// variables is an environment under construction: a name keeps the place of its first value and
// takes the last value.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return // no program can be given such a name
	}
	if _, known := v.values[name]; !known {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *variables) list() []string {
	out := make([]string, 0, len(v.names))
	for _, name := range v.names {
		out = append(out, name+"="+v.values[name])
	}
	return out
}

// environment builds the pod spec's part of a container's environment: envFrom, then env, each in
// order, then the Services' variables that neither has set. A reference $(NAME) can name earlier
// variables and all Services' variables.
func (w work) environment(ctx context.Context) ([]string, error) {
	services, err := w.serviceEnv(ctx)
	if err != nil {
		return nil, err
	}
	env := &variables{values: map[string]string{}}
	for _, from := range w.container.EnvFrom {
		data, err := w.envFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			env.set(from.Prefix+key, data[key])
		}
	}
	ofService := ocispec.Lookup(services)
	lookup := func(name string) (string, bool) {
		if value, ok := env.values[name]; ok {
			return value, true
		}
		return ofService(name)
	}
	for i := range w.container.Env {
		e := &w.container.Env[i]
		value, ok := ocispec.Expand(e.Value, lookup), true
		if e.Value == "" && e.ValueFrom != nil {
			if value, ok, err = w.valueFrom(ctx, e.ValueFrom); err != nil {
				return nil, err
			}
		}
		if ok {
			env.set(e.Name, value)
		}
	}
	for _, s := range services {
		if name, value, _ := strings.Cut(s, "="); !has(env.values, name) {
			env.set(name, value)
		}
	}
	return env.list(), nil
}

func has(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

func (w work) serviceEnv(ctx context.Context) ([]string, error) {
	services, err := w.services(ctx)
	if err != nil && w.request.Static {
		return nil, nil // static pods start before the API server does, and may be the API server
	}
	if err != nil {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars: %w", err)
	}
	links := w.pod.Spec.EnableServiceLinks == nil || *w.pod.Spec.EnableServiceLinks
	return serviceenv.Env(services, w.pod.Namespace, links), nil
}

// services waits up to two seconds for the first list of Services, which a just started agent may
// lack. It does not wait for static pods, which may run what that list needs.
func (w work) services(ctx context.Context) (services []*corev1.Service, err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		services, err = w.config.Objects.Services(w.pod.Namespace)
		if err == nil || w.request.Static {
			return services, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
	return services, err
}

func (w work) envFrom(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		object, err := w.config.Objects.ConfigMap(ctx, w.pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return nil, unlessOptional(err, from.ConfigMapRef.Optional)
		}
		return object.Data, nil
	case from.SecretRef != nil:
		object, err := w.config.Objects.Secret(ctx, w.pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return nil, unlessOptional(err, from.SecretRef.Optional)
		}
		data := make(map[string]string, len(object.Data))
		for k, v := range object.Data {
			data[k] = string(v)
		}
		return data, nil
	}
	return nil, nil
}

// unlessOptional ignores "not found" for an optional source.
func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

// valueFrom resolves one source; ok is false if it is optional and missing.
func (w work) valueFrom(ctx context.Context, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = fieldref.Field(w.pod, from.FieldRef.FieldPath, fieldref.Addresses{
			PodIPs: texts(w.podIPs()), HostIPs: texts(w.hostIPs()),
		})
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = fieldref.Resource(w.pod, w.container.Name, from.ResourceFieldRef, w.node.Allocatable)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		return w.configMapKey(ctx, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return w.secretKey(ctx, from.SecretKeyRef)
	case from.FileKeyRef != nil:
		return w.fileKey(from.FileKeyRef)
	default:
		return "", false, errors.New("valueFrom of an environment variable names no source that this node supports")
	}
}

func (w work) configMapKey(ctx context.Context, s *corev1.ConfigMapKeySelector) (string, bool, error) {
	object, err := w.config.Objects.ConfigMap(ctx, w.pod.Namespace, s.Name)
	if err != nil {
		return "", false, unlessOptional(err, s.Optional)
	}
	if value, ok := object.Data[s.Key]; ok {
		return value, true, nil
	}
	return "", false, missingKey("ConfigMap", w.pod.Namespace, s.Name, s.Key, s.Optional)
}

func (w work) secretKey(ctx context.Context, s *corev1.SecretKeySelector) (string, bool, error) {
	object, err := w.config.Objects.Secret(ctx, w.pod.Namespace, s.Name)
	if err != nil {
		return "", false, unlessOptional(err, s.Optional)
	}
	if value, ok := object.Data[s.Key]; ok {
		return string(value), true, nil
	}
	return "", false, missingKey("Secret", w.pod.Namespace, s.Name, s.Key, s.Optional)
}

func missingKey(kind, namespace, name, key string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, namespace, name)
}

// podIPs returns the pod's addresses; the node's for a pod in the host network.
func (w work) podIPs() []netip.Addr {
	if w.pod.Spec.HostNetwork {
		return w.hostIPs()
	}
	return w.request.Runtime.Sandbox.IPs
}

func (w work) hostIPs() []netip.Addr {
	if len(w.request.HostIPs) > 0 {
		return w.request.HostIPs
	}
	return w.node.IPs
}

func texts(ips []netip.Addr) []string {
	out := make([]string, 0, len(ips))
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

// envFileLimit is the largest environment file that is read, in bytes (KEP-3721).
const envFileLimit = 64 << 10

// fileKey reads a variable from a file that an init container wrote to a volume.
func (w work) fileKey(s *corev1.FileKeySelector) (string, bool, error) {
	optional := s.Optional != nil && *s.Optional
	root, err := w.config.Volumes.Path(w.pod, s.VolumeName)
	if err != nil {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef: %w", s.VolumeName, err)
	}
	text, err := hostfs.ReadBeneath(root, s.Path, envFileLimit)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && optional {
			return "", false, nil
		}
		// the cause could reveal the host's files
		return "", false, errors.New("couldn't parse env file")
	}
	value, found, err := podfiles.EnvFile(string(text), s.Key)
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	if !found && !optional {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", s.Key, s.Path)
	}
	return value, found, nil
}
