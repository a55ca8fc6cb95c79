package sysctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a kernel's parameters; those in readOnly refuse.
type fake struct {
	mu       sync.Mutex
	values   map[string]string
	readOnly map[string]bool
	writes   int
}

func (f *fake) Get(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, ok := f.values[name]; ok {
		return v, nil
	}
	return "", fs.ErrNotExist
}

func (f *fake) Set(name, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readOnly[name] {
		return errors.New("read-only")
	}
	f.writes++
	f.values[name] = value
	return nil
}

func (f *fake) load(values map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.values, values)
}

func TestPlan(t *testing.T) {
	full := Settings{
		MaxPerCore: 32768, Min: 131072, CPUs: 2, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: 30 * time.Second,
		UDPStream: time.Minute, TCPBeLiberal: true, LocalhostNodePorts: true, IPv4: true, Bridged: true,
	}
	want := `net/netfilter/nf_conntrack_max>=131072
module/nf_conntrack/parameters/hashsize>=32768
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
	if got := text(Plan(Settings{CPUs: 8, IPv4: true, IPv6: true, Min: 5000})); got != "net/ipv4/ip_forward?1\nnet/ipv6/conf/all/forwarding?1\n" {
		t.Errorf("zero changes something, or a machine without a bridge needs one:\n%s", got)
	}
	for _, c := range []struct {
		perCore, least, cpus int
		want                 string
	}{
		{32768, 0, 64, "1048576"},       // what cores ask for is bounded
		{32768, 4000000, 64, "4000000"}, // what is asked for by number is not
		{32768, 4000000, 4, "4000000"},
		{32768, 131072, 2, "131072"},
		{32768, 131072, 8, "262144"},
	} {
		if got := Plan(Settings{MaxPerCore: c.perCore, Min: c.least, CPUs: c.cpus})[0].Value; got != c.want {
			t.Errorf("maxPerCore %d and min %d on %d cores ask for %s, want %s", c.perCore, c.least, c.cpus, got, c.want)
		}
	}
}

func text(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		sign := "="
		switch {
		case c.Check:
			sign = "?"
		case c.AtLeast:
			sign = ">="
		}
		fmt.Fprintf(&b, "%s%s%s\n", c.Name, sign, c.Value)
	}
	return b.String()
}

func TestApplyWritesWhatDiffersOnce(t *testing.T) {
	f := &fake{values: map[string]string{"a": "1", "b": "1", "c": "0", "ro": "1", "more": "500", "less": "50"}, readOnly: map[string]bool{"ro": true}}
	changes := []Change{
		{Name: "a", Value: "1"},
		{Name: "ro", Value: "2"},
		{Name: "b", Value: "2"},
		{Name: "c", Value: "1", Check: true},
		{Name: "none", Value: "1"},
		{Name: "more", Value: "100", AtLeast: true},
		{Name: "less", Value: "100", AtLeast: true},
		{Name: "noCheck", Value: "1", Check: true},
	}
	for range 2 {
		var failed []string
		for _, o := range Apply(changes, f) {
			if o.Err != nil {
				failed = append(failed, o.Name)
			}
		}
		if got := strings.Join(failed, " "); got != "ro c none noCheck" {
			t.Errorf("not as they should be: %s", got)
		}
	}
	if got := fmt.Sprint(f.values); f.writes != 2 || got != "map[a:1 b:2 c:0 less:100 more:500 ro:1]" {
		t.Errorf("%d writes, values %s", f.writes, got)
	}
}

// TestKernelParametersAreFiles below two folders of the root.
func TestKernelParametersAreFiles(t *testing.T) {
	root := t.TempDir()
	for file, value := range map[string]string{
		"proc/sys/net/netfilter/nf_conntrack_max": "100\n", "sys/module/nf_conntrack/parameters/hashsize": "1000\n", "sys/class/net/cni0/brif/veth1/state": "3\n",
	} {
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	k := Kernel(root)
	for _, o := range Apply(Plan(Settings{MaxPerCore: 1000, CPUs: 2}), k) {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
	most, err := k.Get("net/netfilter/nf_conntrack_max")
	hash, err2 := k.Get("module/nf_conntrack/parameters/hashsize")
	if most != "2000" || hash != "1000" || err != nil || err2 != nil {
		t.Errorf("max %q, hashsize %q, %v, %v", most, hash, err, err2)
	}
	if !k.Bridged() || Kernel(t.TempDir()).Bridged() {
		t.Error("a bridge with a port, and no bridge, are not told from each other")
	}
}

// TestParametersOfAModuleThatIsLoadedLater are set then, once: what an administrator makes of them
// stays.
func TestParametersOfAModuleThatIsLoadedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{values: map[string]string{"net/ipv4/ip_forward": "0"}, readOnly: map[string]bool{}}
		var log bytes.Buffer
		var told []string
		s := Settings{MaxPerCore: 32768, Min: 131072, CPUs: 2, TCPEstablished: 24 * time.Hour, IPv4: true}
		k, err := NewKeeper(Config{
			Wanted: func() []Change { return Plan(s) }, Sysctls: f, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Problem: func(problem error) { told = append(told, problem.Error()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		synctest.Wait()
		if len(told) != 1 || !strings.Contains(told[0], "ip_forward") || len(k.Problems()) != 4 {
			t.Errorf("the first rules are not written yet, and it reports %q, the status says %q", told, k.Problems())
		}
		time.Sleep(10 * time.Minute)
		if got := strings.Join(k.Problems(), "\n"); strings.Count(got, "nf_conntrack") < 3 || !strings.Contains(got, "net.ipv4.ip_forward is 0") {
			t.Errorf("the status says:\n%s", got)
		}
		if n := len(told); n != 4 {
			t.Errorf("%d problems were reported, want each of 4 once: %q", n, told)
		}
		f.load(map[string]string{
			"net/netfilter/nf_conntrack_max": "65536", "module/nf_conntrack/parameters/hashsize": "262144",
			"net/netfilter/nf_conntrack_tcp_timeout_established": "432000", "net/ipv4/ip_forward": "1",
		})
		time.Sleep(lastWait)
		synctest.Wait()
		if f.values["net/netfilter/nf_conntrack_max"] != "131072" || f.values["net/netfilter/nf_conntrack_tcp_timeout_established"] != "86400" ||
			f.values["module/nf_conntrack/parameters/hashsize"] != "262144" || len(k.Problems()) != 0 {
			t.Errorf("after the module was loaded: %v, %q", f.values, k.Problems())
		}
		f.load(map[string]string{"net/netfilter/nf_conntrack_tcp_timeout_established": "600", "net/ipv4/ip_forward": "0"})
		time.Sleep(10 * time.Minute)
		if got := f.values["net/netfilter/nf_conntrack_tcp_timeout_established"]; got != "600" {
			t.Errorf("what an administrator has set became %s", got)
		}
		if got := k.Problems(); len(got) != 1 || !strings.Contains(got[0], "ip_forward") {
			t.Errorf("forwarding was switched off, the status says %q", got)
		}
		s.Bridged = true
		time.Sleep(lastWait)
		synctest.Wait()
		if got := strings.Join(k.Problems(), "\n"); !strings.Contains(got, "br_netfilter") {
			t.Errorf("a bridge has come, and br_netfilter is not loaded; the status says %q", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestKeptParametersAreSetAtOnce, and nothing is reported where nothing is wrong.
func TestKeptParametersAreSetAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{values: map[string]string{"net/netfilter/nf_conntrack_max": "4000000", "module/nf_conntrack/parameters/hashsize": "16384", "net/ipv4/ip_forward": "1"}}
		k, err := NewKeeper(Config{
			Wanted: func() []Change { return Plan(Settings{MaxPerCore: 32768, CPUs: 8, IPv4: true}) }, Sysctls: f, Log: slog.New(slog.DiscardHandler),
			Problem: func(problem error) { t.Error(problem) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		synctest.Wait()
		if got := f.values["net/netfilter/nf_conntrack_max"] + " " + f.values["module/nf_conntrack/parameters/hashsize"]; got != "4000000 65536" {
			t.Errorf("max and hashsize are %s: a larger maximum is an administrator's, and stays", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
