// Package nfgen is EDGE: it reads the generation of nf_tables, by which one sees at the cost of a
// system call whether anyone has written rules.
package nfgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Reader reads the generation in the network namespace in which it was first asked. It keeps its
// socket, since it is used every second. The zero value is ready to use, from any goroutine.
type Reader struct {
	mu     sync.Mutex
	socket *netlink.Conn // nil: not open
}

// Attributes and header, from linux/netfilter/nf_tables.h and nfnetlink.h.
const (
	generationID = 1 // NFTA_GEN_ID
	headerSize   = 4 // struct nfgenmsg
)

// Generation is the number of transactions that nf_tables has taken from anyone, modulo 2³².
func (r *Reader) Generation() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	generation, err := r.ask()
	if err != nil {
		return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
	}
	return generation, nil
}

func (r *Reader) ask() (uint64, error) {
	if r.socket == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return 0, err
		}
		r.socket = conn
	}
	answers, err := r.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, headerSize),
	})
	if err != nil {
		_ = r.socket.Close()
		r.socket = nil
		return 0, err
	}
	for _, answer := range answers {
		if len(answer.Data) < headerSize {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[headerSize:])
		if err != nil {
			return 0, err
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == generationID {
				return uint64(attributes.Uint32()), attributes.Err()
			}
		}
	}
	return 0, errors.New("the answer has none")
}
