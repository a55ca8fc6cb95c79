// Package nfacct is EDGE: it makes and reads named packet counters of the kernel (nfnetlink_acct),
// in the network namespace of its caller. iptables rules use them, and they survive when the rules
// are written again.
package nfacct

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Messages and attributes of the subsystem: linux/netfilter/nfnetlink_acct.h.
const (
	messageNew, messageGet = 0, 1
	attrName, attrPackets  = 1, 2
	typeMask               = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// Ensure makes the counters that do not exist yet.
func Ensure(names ...string) error {
	for _, name := range names {
		_, err := ask(messageNew, unix.NLM_F_CREATE|unix.NLM_F_ACK, name)
		if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: it exists
			return fmt.Errorf("making packet counter %q (is the kernel module nfnetlink_acct loaded?): %w", name, err)
		}
	}
	return nil
}

// Packets is how many packets a counter has seen.
func Packets(name string) (uint64, error) {
	messages, err := ask(messageGet, unix.NLM_F_ACK, name)
	if err != nil {
		return 0, fmt.Errorf("reading packet counter %q: %w", name, err)
	}
	for _, m := range messages {
		if packets, ok := parse(m); ok {
			return packets, nil
		}
	}
	return 0, fmt.Errorf("reading packet counter %q: the kernel's answer has no number", name)
}

// ask sends one request; names of counters are at most 31 bytes.
func ask(message int, flags int, name string) ([][]byte, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_ACCT<<8|message, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	request.AddData(nl.NewRtAttr(attrName, nl.ZeroTerminated(name)))
	return request.Execute(unix.NETLINK_NETFILTER, 0)
}

// parse finds the packets in an answer; false if it has none.
func parse(message []byte) (uint64, bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return 0, false
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type&typeMask == attrPackets && len(a.Value) == 8 {
			return binary.BigEndian.Uint64(a.Value), true
		}
	}
	return 0, false
}
