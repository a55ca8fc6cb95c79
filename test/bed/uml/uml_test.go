package uml

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// start boots a machine in its own namespace and ends both with the test.
func start(t *testing.T, d Disk) *Machine {
	t.Helper()
	if os.Getenv("NODEAGENT_BED") != "1" || os.Getuid() != 0 {
		t.Skip("needs NODEAGENT_BED=1 and root: it makes a disk and network namespaces")
	}
	if _, err := exec.LookPath(kernelProgram); err != nil {
		t.Skipf("needs %s (Debian package user-mode-linux)", kernelProgram)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	begin := time.Now()
	disk, err := PrepareDisk(ctx, cacheDir(t), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("disk after %v", time.Since(begin))

	// By these names bed.Sweep finds what a killed test left.
	ns := fmt.Sprintf("%s%d", TestPrefix, os.Getpid())
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { run(t, "ip", "netns", "delete", ns) })
	run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	dir := filepath.Join(os.TempDir(), ns)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	m, err := Start(ctx, Options{
		Name: "node-a", Dir: dir, Disk: disk, Netns: ns,
		Address: netip.MustParsePrefix("192.168.77.12/24"), Gateway: netip.MustParseAddr("192.168.77.1"),
	})
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(dir, "console.log"))
		t.Fatalf("%v\nconsole:\n%s", err, console)
	}
	t.Cleanup(func() {
		if err := m.Discard(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Logf("up after %v", time.Since(begin))
	return m
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func output(t *testing.T, m *Machine, script string) string {
	t.Helper()
	out, err := m.Output(t.Context(), "bash", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestMachine(t *testing.T) {
	m := start(t, testDisk(t))
	t.Run("commands", func(t *testing.T) { testCommands(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("kernel", func(t *testing.T) { testKernel(t, m) })
	t.Run("container with memory limit", func(t *testing.T) { testContainer(t, m) })
	t.Run("reboot and plug", func(t *testing.T) { testPower(t, m) })
}

func testCommands(t *testing.T, m *Machine) {
	var out strings.Builder
	code, err := m.Run(t.Context(), Command{Args: []string{"sh", "-c", `cat; echo $A >&2; exit 7`}, Env: []string{"A=b"}, Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &out})
	if err != nil || code != 7 || !strings.Contains(out.String(), "in") || !strings.Contains(out.String(), "b\n") {
		t.Errorf("code %d, error %v, output %q", code, err, out.String())
	}
	if r, err := m.Exec(t.Context(), "sh", "-c", "kill -9 $$"); err != nil || r.Code != 137 {
		t.Errorf("killed command: %+v, %v", r, err)
	}
	if _, err := m.Exec(t.Context(), "/no/such/program"); err == nil {
		t.Error("a missing program is no error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.Exec(ctx, "sleep", "4711"); err == nil {
		t.Error("a command outlives its context")
	}
	if got := output(t, m, "for i in $(seq 300); do pgrep -fx 'sleep 4711' >/dev/null || break; sleep 0.1; done; pgrep -fx 'sleep 4711' || echo none"); got != "none" {
		t.Errorf("the cancelled command still runs: %s", got)
	}
	stranger := &Machine{opts: m.opts, token: "wrong"}
	if _, err := stranger.Exec(t.Context(), "true"); err == nil {
		t.Error("a command with a wrong token was run")
	}
}

func testFiles(t *testing.T, m *Machine) {
	dir := t.TempDir()
	src := filepath.Join(dir, "some.dir")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	if err := os.WriteFile(filepath.Join(src, "sub/big"), []byte(big), 0o741); err != nil {
		t.Fatal(err)
	}
	if err := m.CopyTo(t.Context(), src, "/var/tmp/x/other"); err != nil {
		t.Fatal(err)
	}
	if got := output(t, m, "stat -c '%a %s' /var/tmp/x/other/sub/big"); got != "741 4194304" {
		t.Errorf("got %q", got)
	}
	back := t.TempDir()
	if err := m.CopyFrom(t.Context(), "/var/tmp/x/other", back); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(back, "other/sub/big")); err != nil || string(b) != big {
		t.Errorf("came back as %d bytes, %v", len(b), err)
	}
	if err := m.WriteFile(t.Context(), "/etc/bed/x", []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := output(t, m, "stat -c %a /etc/bed/x; cat /etc/bed/x"); got != "600\nhello" {
		t.Errorf("got %q", got)
	}
}

func testKernel(t *testing.T, m *Machine) {
	if got := output(t, m, "hostname; stat -fc %T /sys/fs/cgroup; ps -o comm= -p 1"); got != "node-a\ncgroup2fs\nsystemd" {
		t.Errorf("got %q", got)
	}
	controllers := output(t, m, "cat /sys/fs/cgroup/cgroup.controllers")
	for _, c := range []string{"cpu", "io", "memory", "pids"} {
		if !strings.Contains(" "+controllers+" ", " "+c+" ") {
			t.Errorf("controller %s is not in %q", c, controllers)
		}
	}
	ipvs := output(t, m, "ipvsadm -A -t 10.96.0.10:53 -s rr && ipvsadm -a -t 10.96.0.10:53 -r 10.244.1.2:53 -m && ipvsadm -Sn; ipvsadm -C")
	if !strings.Contains(ipvs, "-a -t 10.96.0.10:53 -r 10.244.1.2:53 -m") {
		t.Errorf("ipvsadm says %q", ipvs)
	}
	if got := output(t, m, "iptables -t nat -N X && iptables -t nat -A X -m addrtype --dst-type LOCAL -j MASQUERADE && iptables -t nat -S X; iptables -t nat -F X; iptables -t nat -X X"); !strings.Contains(got, "-A X -m addrtype") {
		t.Errorf("iptables says %q", got)
	}
	if got := output(t, m, "ip link add d0 type dummy && ip link del d0 && cat /proc/sys/net/bridge/bridge-nf-call-iptables"); got != "1" {
		t.Errorf("got %q", got)
	}
	if got := output(t, m, "systemctl --failed --no-legend --plain"); got != "" {
		t.Errorf("failed units: %s", got)
	}
}

func testContainer(t *testing.T, m *Machine) {
	const image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
	begin := time.Now()
	output(t, m, "ctr -n k8s.io run -d --memory-limit 50331648 "+image+" c1 sleep 600")
	t.Logf("container after %v", time.Since(begin))
	if got := output(t, m, "cat /sys/fs/cgroup/k8s.io/c1/memory.max; ctr -n k8s.io task exec --exec-id e c1 sh -c 'echo from-$((1+1))'"); got != "50331648\nfrom-2" {
		t.Errorf("got %q", got)
	}
	output(t, m, "ctr -n k8s.io task kill -s 9 c1; sleep 1; ctr -n k8s.io task rm c1; ctr -n k8s.io c rm c1")
}

func testPower(t *testing.T, m *Machine) {
	ctx := t.Context()
	output(t, m, "echo kept > /var/lib/kept; sync /var/lib/kept")
	before, err := m.BootID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := m.Reboot(ctx); err != nil {
		console, _ := os.ReadFile(m.Console())
		t.Fatalf("%v\nconsole:\n%s", err, console)
	}
	t.Logf("rebooted in %v", time.Since(begin))
	after, err := m.BootID(ctx)
	if err != nil || after == before {
		t.Errorf("boot id %q, then %q, %v", before, after, err)
	}
	if err := m.PullPlug(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Exec(ctx, "true"); err == nil {
		t.Error("a machine without power runs commands")
	}
	begin = time.Now()
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("booted again in %v", time.Since(begin))
	if got := output(t, m, "cat /var/lib/kept"); got != "kept" {
		t.Errorf("the disk holds %q", got)
	}
}

func TestSweep(t *testing.T) {
	if os.Getenv("NODEAGENT_BED") != "1" {
		t.Skip("needs NODEAGENT_BED=1: it kills a process group")
	}
	dir := t.TempDir()
	stranger := exec.Command("sleep", "600")
	mine := exec.Command("sh", "-c", "sleep 600 & wait", "sh", "uml_dir="+dir)
	for _, c := range []*exec.Cmd{stranger, mine} {
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL); _ = c.Wait() })
	}
	record := func(c *exec.Cmd, dir string) {
		if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(fmt.Sprint(c.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	other := t.TempDir()
	record(stranger, other)
	if err := Sweep(other); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("a process of the same number was killed")
	}
	record(mine, dir)
	go func() { _ = mine.Wait() }()
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	err := waitFor(t.Context(), time.Minute, 10*time.Millisecond, func() error {
		if syscall.Kill(-mine.Process.Pid, 0) == nil {
			return errors.New("the group lives on")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}
