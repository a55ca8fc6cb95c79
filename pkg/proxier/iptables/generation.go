package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Generation is that of nf_tables, or a hash of what the kernel says of the legacy tables: their
// sizes and numbers of rules.
func (p *Program) Generation() (generation uint64, exact bool, err error) {
	if p.Variant == nfTables {
		generation, err = p.nftables.Generation()
		return generation, true, err
	}
	generation, err = legacyHash(p.ipv6)
	return generation, false, err
}

// tableInfo is struct ipt_getinfo (linux/netfilter_ipv4/ip_tables.h), the same for IPv6.
type tableInfo struct {
	name       [32]byte
	validHooks uint32
	hooks      [5]uint32
	underflows [5]uint32
	entries    uint32
	size       uint32
}

// getInfo is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const getInfo = 64

func legacyHash(ipv6 bool) (uint64, error) {
	family, level := unix.AF_INET, unix.SOL_IP
	if ipv6 {
		family, level = unix.AF_INET6, unix.SOL_IPV6
	}
	socket, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("reading the size of legacy tables: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	sum := fnv.New64a()
	for _, table := range []string{"filter", "nat", "mangle"} {
		var info tableInfo
		copy(info.name[:], table)
		length := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), uintptr(level), getInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0) //nolint:gosec // getsockopt has no other way to take a struct
		if errno != 0 && !errors.Is(errno, syscall.ENOENT) { // no such table yet
			return 0, fmt.Errorf("reading the size of legacy table %q: %w", table, errno)
		}
		_ = binary.Write(sum, binary.NativeEndian, []uint32{info.entries, info.size})
	}
	return sum.Sum64(), nil
}
