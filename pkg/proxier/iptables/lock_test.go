package iptables

import (
	"testing"
)

func TestHolderOf(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  WRITE 11 00:17:900 0 EOF
2: FLOCK  ADVISORY  WRITE 22 fe:01:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 33 fe:01:1234 0 EOF
3: FLOCK  ADVISORY  WRITE -1 fe:01:77 0 EOF
`
	for _, c := range []struct {
		inode uint64
		want  int
	}{{1234, 22}, {77, 0}, {1, 0}} {
		if got := holderOf(locks, 0xfe, 1, c.inode); got != c.want {
			t.Errorf("inode %d is held by %d, want %d", c.inode, got, c.want)
		}
	}
}

func FuzzHolderOf(f *testing.F) {
	f.Add("2: FLOCK  ADVISORY  WRITE 22 fe:01:1234 0 EOF\n")
	f.Fuzz(func(t *testing.T, text string) {
		if pid := holderOf(text, 0xfe, 1, 1234); pid < 0 {
			t.Errorf("process %d", pid)
		}
	})
}
