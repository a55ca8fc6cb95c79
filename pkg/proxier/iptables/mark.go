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

// Marker is what a Tool can do in addition: tell at hardly any cost whether
// anyone has written.
type Marker interface {
	// Mark is a number that changes with what is in the kernel. exact: each
	// transaction of anyone adds 1 to it; else some changes may leave it as it is.
	Mark() (mark uint64, exact bool, err error)
}

// Mark is the generation of nf_tables, or a sum over what the kernel tells of
// the legacy tables: their sizes and numbers of rules.
func (p *Program) Mark() (mark uint64, exact bool, err error) {
	if p.Variant == nfTables {
		mark, err = p.generation()
		return mark, true, err
	}
	mark, err = legacySizes(p.ipv6)
	return mark, false, err
}

// From linux/netfilter/nf_tables.h and nfnetlink.h.
const (
	subsystemNFTables = 10
	getGeneration     = 16
	generationID      = 1
	headerSize        = 4 // struct nfgenmsg
)

// generation asks for the number of transactions of nf_tables in this network namespace. The socket
// is kept: it is asked every second.
func (p *Program) generation() (uint64, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if p.socket == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return 0, fmt.Errorf("asking for the generation of nf_tables: %w", err)
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
		return 0, fmt.Errorf("asking for the generation of nf_tables: %w", err)
	}
	for _, answer := range answers {
		if len(answer.Data) < headerSize {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[headerSize:])
		if err != nil {
			return 0, fmt.Errorf("asking for the generation of nf_tables: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == generationID {
				return uint64(attributes.Uint32()), attributes.Err()
			}
		}
	}
	return 0, errors.New("asking for the generation of nf_tables: the answer has none")
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

func legacySizes(ipv6 bool) (uint64, error) {
	family, level := unix.AF_INET, unix.SOL_IP
	if ipv6 {
		family, level = unix.AF_INET6, unix.SOL_IPV6
	}
	socket, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("asking for the size of legacy tables: %w", err)
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
			return 0, fmt.Errorf("asking for the size of legacy table %q: %w", table, errno)
		}
		_ = binary.Write(sum, binary.NativeEndian, []uint32{info.entries, info.size})
	}
	return sum.Sum64(), nil
}
