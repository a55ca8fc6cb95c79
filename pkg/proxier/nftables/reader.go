package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/nfgen"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
)

// Reader reads the table kube-proxy of one family over netlink, in the network
// namespace of its caller.
type Reader struct {
	proto      byte
	generation nfgen.Reader
}

// NewReader returns a Reader; it does nothing yet.
func NewReader(f corev1.IPFamily) *Reader {
	if f == corev1.IPv6Protocol {
		return &Reader{proto: unix.NFPROTO_IPV6}
	}
	return &Reader{proto: unix.NFPROTO_IPV4}
}

// headerSize is that of struct nfgenmsg.
const headerSize = 4

// Attributes, from linux/netfilter/nf_tables.h.
const (
	attrChainTable, attrChainName, attrChainHook = 1, 3, 4
	attrRuleTable, attrRuleChain, attrRuleHandle = 1, 2, 3
	attrSetTable, attrSetName, attrSetFlags      = 1, 2, 3
	attrSetTimeout                               = 11

	attrElementsTable, attrElementsSet, attrElements = 1, 2, 3
	attrElementKey, attrElementData, attrElementFlag = 1, 2, 3
	attrDataValue, attrDataVerdict                   = 1, 2
	attrVerdictCode, attrVerdictChain                = 1, 2

	flagAnonymous, flagMap = 1, 8
	flagIntervalEnd        = 1
)

// Verdicts, from linux/netfilter.h and nf_tables.h.
const (
	verdictDrop, verdictAccept = 0, 1
	verdictJump, verdictGoto   = -3, -4
	verdictReturn              = -5
)

// ask sends one request and calls found with the attributes of each answer.
func (r *Reader) ask(message uint16, flags netlink.HeaderFlags, ask []netlink.Attribute, found func([]netlink.Attribute)) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	data, err := netlink.MarshalAttributes(ask)
	if err != nil {
		return err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message), Flags: netlink.Request | flags},
		Data:   append([]byte{r.proto, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return err
	}
	for _, a := range answers {
		if len(a.Data) < headerSize {
			continue
		}
		attrs, err := netlink.UnmarshalAttributes(a.Data[headerSize:])
		if err != nil {
			return err
		}
		found(attrs)
	}
	return nil
}

// dump is ask for all objects of a kind; a table or set that is not there has none.
func (r *Reader) dump(message uint16, ask []netlink.Attribute, found func([]netlink.Attribute)) error {
	err := r.ask(message, netlink.Dump, ask, found)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Generation is the number of transactions of nf_tables in this network namespace.
func (r *Reader) Generation() (uint64, error) { return r.generation.Generation() }

// Has says whether a chain exists.
func (r *Reader) Has(_ context.Context, chain string) (has bool, err error) {
	err = r.ask(unix.NFT_MSG_GETCHAIN, 0, []netlink.Attribute{text(attrChainTable, elements.TableName), text(attrChainName, chain)},
		func([]netlink.Attribute) { has = true })
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for chain %q: %w", chain, err)
	}
	return has, nil
}

// Rules are the handles of a chain's rules.
func (r *Reader) Rules(_ context.Context, chain string) (handles []uint64, err error) {
	err = r.dump(unix.NFT_MSG_GETRULE, []netlink.Attribute{text(attrRuleTable, elements.TableName), text(attrRuleChain, chain)},
		func(attrs []netlink.Attribute) {
			if word(attrs, attrRuleTable) == elements.TableName && word(attrs, attrRuleChain) == chain {
				handles = append(handles, number(attrs, attrRuleHandle))
			}
		})
	return handles, err
}

// Names are the chains and sets of the table, without rules and elements.
func (r *Reader) Names(context.Context) (*elements.Observed, error) {
	out := &elements.Observed{Chains: map[string]elements.ObservedChain{}, Sets: map[string]elements.ObservedSet{}}
	table := text(attrChainTable, elements.TableName)
	err := r.dump(unix.NFT_MSG_GETCHAIN, []netlink.Attribute{table}, func(attrs []netlink.Attribute) {
		if word(attrs, attrChainTable) == elements.TableName {
			out.Chains[word(attrs, attrChainName)] = elements.ObservedChain{Base: value(attrs, attrChainHook) != nil}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	err = r.dump(unix.NFT_MSG_GETSET, []netlink.Attribute{table}, func(attrs []netlink.Attribute) {
		flags := number(attrs, attrSetFlags)
		if word(attrs, attrSetTable) == elements.TableName && flags&flagAnonymous == 0 {
			out.Sets[word(attrs, attrSetName)] = elements.ObservedSet{
				Map: flags&flagMap != 0, Timeout: time.Duration(number(attrs, attrSetTimeout)) * time.Millisecond,
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing nftables sets: %w", err)
	}
	return out, nil
}

// All is Names with the handles of all rules, and the elements of the sets for which read says so.
func (r *Reader) All(ctx context.Context, read func(set string) bool) (*elements.Observed, error) {
	out, err := r.Names(ctx)
	if err != nil {
		return nil, err
	}
	handles := map[string][]uint64{}
	err = r.dump(unix.NFT_MSG_GETRULE, []netlink.Attribute{text(attrRuleTable, elements.TableName)}, func(attrs []netlink.Attribute) {
		if word(attrs, attrRuleTable) == elements.TableName {
			chain := word(attrs, attrRuleChain)
			handles[chain] = append(handles[chain], number(attrs, attrRuleHandle))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing nftables rules: %w", err)
	}
	for name, c := range out.Chains {
		c.Rules = handles[name]
		out.Chains[name] = c
	}
	for name, s := range out.Sets {
		if !read(name) {
			continue
		}
		if s.Elements, err = r.elements(name); err != nil {
			return nil, fmt.Errorf("listing elements of nftables set %q: %w", name, err)
		}
		out.Sets[name] = s
	}
	return out, nil
}

func (r *Reader) elements(set string) ([]elements.RawElement, error) {
	var out []elements.RawElement
	err := r.dump(unix.NFT_MSG_GETSETELEM, []netlink.Attribute{text(attrElementsTable, elements.TableName), text(attrElementsSet, set)},
		func(attrs []netlink.Attribute) { out = append(out, parseElements(value(attrs, attrElements))...) })
	return out, err
}

// parseElements reads a list of elements; what cannot be read is left out.
func parseElements(raw []byte) []elements.RawElement {
	list, err := netlink.UnmarshalAttributes(raw)
	if err != nil {
		return nil
	}
	out := make([]elements.RawElement, 0, len(list))
	for _, item := range list {
		attrs, err := netlink.UnmarshalAttributes(item.Data)
		if err != nil {
			continue
		}
		key, err := netlink.UnmarshalAttributes(value(attrs, attrElementKey))
		if err != nil {
			continue
		}
		e := elements.RawElement{Key: value(key, attrDataValue), IntervalEnd: number(attrs, attrElementFlag)&flagIntervalEnd != 0}
		if data, err := netlink.UnmarshalAttributes(value(attrs, attrElementData)); err == nil {
			e.Verdict = parseVerdict(value(data, attrDataVerdict))
		}
		out = append(out, e)
	}
	return out
}

// parseVerdict writes a verdict as nftables does; "": there is none.
func parseVerdict(raw []byte) string {
	attrs, err := netlink.UnmarshalAttributes(raw)
	if err != nil || len(attrs) == 0 {
		return ""
	}
	chain := word(attrs, attrVerdictChain)
	switch code := int32(uint32(number(attrs, attrVerdictCode))); code { //nolint:gosec // a signed number in four bytes
	case verdictDrop:
		return "drop"
	case verdictAccept:
		return "accept"
	case verdictJump:
		return "jump " + chain
	case verdictGoto:
		return "goto " + chain
	case verdictReturn:
		return "return"
	default:
		return fmt.Sprintf("verdict %d", code)
	}
}

// value is that of an attribute; nil: there is none.
func value(attrs []netlink.Attribute, kind uint16) []byte {
	for _, a := range attrs {
		if a.Type&^(netlink.Nested|netlink.NetByteOrder) == kind {
			return a.Data
		}
	}
	return nil
}

func word(attrs []netlink.Attribute, kind uint16) string {
	return strings.TrimRight(string(value(attrs, kind)), "\x00")
}

// number reads a number of four or eight bytes in network order; 0: there is none.
func number(attrs []netlink.Attribute, kind uint16) uint64 {
	switch raw := value(attrs, kind); len(raw) {
	case 4:
		return uint64(binary.BigEndian.Uint32(raw))
	case 8:
		return binary.BigEndian.Uint64(raw)
	}
	return 0
}

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(s), 0)}
}
