// Package uml is EDGE: it runs User-Mode Linux machines with systemd, cgroup v2 and ip_vs, as nodes
// of a test cluster.
//
// Life of a machine: PrepareDisk makes, once a cache folder, an ext4 file with a Debian,
// containerd, its images and a small agent for commands (guestd). Start copies that file for one
// machine, makes a tap in the network namespace named, boots the kernel inside that namespace and
// waits until guestd answers. Exec, CopyTo and CopyFrom act on the running machine; Reboot restarts
// it through systemd; PullPlug kills it as a power cut would and Boot starts it again from the disk
// as it was left. Stop ends it and removes its tap and folder.
//
// The package writes the cache folder, Options.Dir and the tap, nothing else. It never enters the
// caller's own network namespace and kills only the process group that it has started.
package uml
