// Package containerd has the tests of the containerd runtime against a real containerd, runc, CNI
// plugins and log pump. The test program starts itself anew in namespaces of its own (network,
// mounts, processes), so that nothing outlives it.
package containerd
