package nfacct

import (
	"testing"

	"github.com/vishvananda/netlink/nl"
)

func FuzzParse(f *testing.F) {
	seven := append((&nl.Nfgenmsg{}).Serialize(), nl.NewRtAttr(attrPackets, []byte{0, 0, 0, 0, 0, 0, 0, 7}).Serialize()...)
	f.Add(seven)
	f.Add(append((&nl.Nfgenmsg{}).Serialize(), nl.NewRtAttr(attrName, nl.ZeroTerminated("x")).Serialize()...))
	f.Add([]byte{1, 2, 3})
	if got, ok := parse(seven); got != 7 || !ok {
		f.Errorf("parsed %d, %v, want 7", got, ok)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if got, ok := parse(message); !ok && got != 0 {
			t.Errorf("%d packets without a number", got)
		}
	})
}
