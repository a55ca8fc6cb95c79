package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"syscall"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Generation is that of nf_tables, or a hash of what the kernel says of the legacy tables: their
// sizes and numbers of rules.
func (p *Program) Generation() (generation uint64, exact bool, err error) {
	if p.Variant == nfTables {
		generation, err = p.nftGeneration()
		return generation, true, err
	}
	generation, err = legacyHash(p.ipv6)
	return generation, false, err
}

// From linux/netfilter/nf_tables.h and nfnetlink.h.
const (
	subsystemNFTables = 10
	getGeneration     = 16
	generationID      = 1
	headerSize        = 4 // struct nfgenmsg
)

// nftGeneration is the number of transactions of nf_tables in this network namespace. The socket
// is kept, since it is used every second.
func (p *Program) nftGeneration() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
		}
		p.socket = conn
	}
	answers, err := p.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: subsystemNFTables<<8 | getGeneration, Flags: netlink.Request},
		Data:   make([]byte, headerSize),
	})
	if err != nil {
		_ = p.socket.Close()
		p.socket = nil
		return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
	}
	for _, answer := range answers {
		if len(answer.Data) < headerSize {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[headerSize:])
		if err != nil {
			return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == generationID {
				return uint64(attributes.Uint32()), attributes.Err()
			}
		}
	}
	return 0, errors.New("reading the generation of nf_tables: the answer has none")
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
