package sysctl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake is a kernel's parameters; those in readOnly refuse.
type fake struct {
	values   map[string]string
	readOnly map[string]bool
	writes   int
}

func (f *fake) Get(name string) (string, error) {
	if v, ok := f.values[name]; ok {
		return v, nil
	}
	return "", fs.ErrNotExist
}

func (f *fake) Set(name, value string) error {
	if f.readOnly[name] {
		return errors.New("read-only")
	}
	f.writes++
	f.values[name] = value
	return nil
}

func TestPlan(t *testing.T) {
	full := Settings{
		MaxPerCore: 32768, Min: 131072, CPUs: 2, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: 30 * time.Second,
		UDPStream: time.Minute, TCPBeLiberal: true, LocalhostNodePorts: true, IPv4: true,
	}
	want := `net/netfilter/nf_conntrack_max=131072
net/netfilter/nf_conntrack_tcp_timeout_established=86400
net/netfilter/nf_conntrack_tcp_timeout_close_wait=3600
net/netfilter/nf_conntrack_udp_timeout=30
net/netfilter/nf_conntrack_udp_timeout_stream=60
net/netfilter/nf_conntrack_tcp_be_liberal=1
net/ipv4/conf/all/route_localnet=1
net/bridge/bridge-nf-call-iptables?1
net/ipv4/ip_forward?1
`
	if got := text(Plan(full)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := text(Plan(Settings{CPUs: 8, IPv4: true})); strings.Contains(got, "=") {
		t.Errorf("zero changes something:\n%s", got)
	}
	if got := Plan(Settings{MaxPerCore: 32768, CPUs: 64})[0].Value; got != "1048576" {
		t.Errorf("64 cores ask for %s", got)
	}
}

func text(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		sign := "="
		if c.Check {
			sign = "?"
		}
		fmt.Fprintf(&b, "%s%s%s\n", c.Name, sign, c.Value)
	}
	return b.String()
}

func TestApplyWritesWhatDiffersOnce(t *testing.T) {
	f := &fake{values: map[string]string{"a": "1", "b": "1", "c": "0", "ro": "1"}, readOnly: map[string]bool{"ro": true}}
	changes := []Change{{Name: "a", Value: "1"}, {Name: "ro", Value: "2"}, {Name: "b", Value: "2"}, {Name: "c", Value: "1", Check: true}, {Name: "none", Value: "1"}}
	var log bytes.Buffer
	for range 2 {
		err := Apply(changes, f, slog.New(slog.NewTextHandler(&log, nil)))
		if err == nil || !strings.Contains(err.Error(), `"ro"`) {
			t.Errorf("the read-only one is not told: %v", err)
		}
	}
	if f.writes != 1 || f.values["b"] != "2" || f.values["c"] != "0" {
		t.Errorf("%d writes, values %v", f.writes, slices.Sorted(maps.Values(f.values)))
	}
	for _, name := range []string{"sysctl=c", "sysctl=none"} {
		if !strings.Contains(log.String(), name) {
			t.Errorf("no %q in the log:\n%s", name, log.String())
		}
	}
}
