# Holds one machine of the test bed: process 1 of its namespaces. Arguments: the machine's name, its folder, "node" or
# "plain", "attached" or "detached". Descriptor 3: a pipe that closes when the owner dies. Descriptor 4: told when ready.
set -eu
name=$1 dir=$2 kind=$3 life=$4
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"
if [ "$kind" = node ]; then
	# sysfs shows the network namespace of whoever mounts it. A new one hides the cgroup hierarchies: carry them over.
	mkdir -p "$dir/cgroup"
	mount --rbind /sys/fs/cgroup "$dir/cgroup"
	mount -t sysfs sysfs /sys
	mount --rbind "$dir/cgroup" /sys/fs/cgroup
	umount -l "$dir/cgroup"
	mount -t tmpfs -o mode=0755 tmpfs /run
	for d in etc opt var/lib; do
		mkdir -p "$dir/upper/$d" "$dir/work/$d"
		mount -t overlay overlay -o "lowerdir=/$d,upperdir=$dir/upper/$d,workdir=$dir/work/$d" "/$d"
	done
	# What containerd and the agent write a lot, or mount over, lies on the real file system.
	for d in var/log var/lib/kubelet var/lib/containerd var/lib/cni; do
		mkdir -p "$dir/disk/$d" "/$d"
		mount --bind "$dir/disk/$d" "/$d"
	done
	rm -f /etc/resolv.conf
	echo "nameserver 192.168.77.1" >/etc/resolv.conf
	echo "$name" >/etc/hostname
	printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' >/etc/hosts
	tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
	echo 1 >/proc/sys/net/ipv4/ip_forward
	# Without it, Services that lead back to the same node do not work; there is none on some kernels.
	[ ! -e /proc/sys/net/bridge ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
fi
echo ready >&4
exec 4>&-
# The shell reaps what is left to process 1 while it waits here.
if [ "$life" = attached ]; then
	read -r _ <&3 || exit 0
fi
while :; do
	sleep 86400 &
	wait $! || :
done
