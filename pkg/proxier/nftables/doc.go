// Package nftables is EDGE: the services backend over nftables. Package
// elements, which is PURE, says what the table kube-proxy of an IP family is to
// hold and which operations lead there; this package applies them, one
// transaction of the program nft a sync, which the kernel takes whole or not at
// all. It reads back over netlink what the kernel has, and it never touches
// another program's table.
package nftables
