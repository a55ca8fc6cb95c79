package podplan

import (
	"crypto/sha256"
	"encoding/hex"

	corev1 "k8s.io/api/core/v1"
)

// SpecHash tells whether a running container is still the one of the pod spec. It covers what the
// API lets change and what no running container can follow: the image. (Resources change in place.)
// Its text is kept in container records: changing it restarts every container of every node that is
// upgraded.
func SpecHash(c *corev1.Container) string {
	sum := sha256.Sum256([]byte(c.Name + "\x00" + c.Image))
	return hex.EncodeToString(sum[:8])
}

// Restartable says whether an init container is a sidecar, which runs beside the containers that
// follow it.
func Restartable(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
