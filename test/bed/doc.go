// Package bed is EDGE: it starts and stops real Kubernetes clusters on this machine, for tests and
// for `make up`.
//
// A cluster has a control plane (etcd, API server, controller manager, scheduler, CoreDNS behind
// the Service kube-dns) and nodes, each with its own containerd. Each of them is a "machine": a
// named network namespace, and mount, PID, UTS and IPC namespaces that one holder process keeps. A
// node has its own /etc, /opt, /var/lib, /var/log and /run under the standard paths, so an agent
// under test runs with its defaults and cannot write to the machine that it is tested on. When the
// holder dies, the kernel ends every process and mount of its machine. That is how a cluster ends,
// even if the test that made it is killed.
//
// The machines of a cluster are connected to a bridge inside the control plane's network namespace;
// nothing is added to the network namespace that the test runs in. Addresses are the same in every
// cluster, since clusters do not see each other: nodes 192.168.77.0/24, pods 10.244.0.0/16,
// Services 10.96.0.0/16.
//
// Outside of namespaces a cluster needs a run folder below /var/tmp/nodeagent-bed
// ($NODEAGENT_BED_DIR), cgroups, and network namespaces named bed-ID-MACHINE. The run folder
// records all of it, so that the next Start, or Sweep, removes what a killed run left. The bed
// never ends a process that it did not start: it records process ids with their start times.
package bed
