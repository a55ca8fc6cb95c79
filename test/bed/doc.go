// Package bed is EDGE: it starts and stops real Kubernetes clusters on this machine, for tests and
// for `make up`.
//
// A cluster is a control plane (etcd, API server, controller manager, scheduler, CoreDNS behind the
// Service kube-dns) and nodes, each with a containerd of its own. Every one of them is a "machine":
// a network namespace with a name, and mount, process-id, hostname and IPC namespaces held by one
// holder process. A node sees /etc, /opt, /var/lib, /var/log and /run of its own under the standard
// paths, so an agent under test runs with its defaults and cannot write to the machine it is tested
// on. When the holder dies the kernel ends every process and every mount of its machine; that is
// how a cluster ends, also when the test that made it is killed.
//
// The machines of a cluster hang on a bridge inside the control plane's network namespace; nothing
// is added to the network namespace that the test runs in. Addresses are the same in every cluster,
// since no two clusters meet: nodes 192.168.77.0/24, pods 10.244.0.0/16, Services 10.96.0.0/16.
//
// What a cluster needs outside namespaces is a run folder below /var/tmp/nodeagent-bed
// ($NODEAGENT_BED_DIR), cgroups and network namespaces named bed-ID-MACHINE. The run folder records
// all of it, so that what a killed run leaves is swept by the next Start, or by Sweep. It never
// ends a process that it did not start: process ids are recorded with their start times.
package bed
