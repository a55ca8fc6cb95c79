// Package containerd tests the containerd runtime with a real containerd, runc, CNI plugins and log
// pump. The test program runs itself again in its own namespaces (network, mount, PID), so that
// nothing outlives it.
package containerd
