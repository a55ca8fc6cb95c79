package iptables

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/clip"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/nfgen"
)

const (
	// lockSeconds bounds the wait for /run/xtables.lock.
	lockSeconds = 5
	wait        = "5" // the same as an argument
	// runTimeout bounds one run of a program: large rulesets take seconds.
	runTimeout = 2 * time.Minute
	// askTimeout bounds runs that read or write a rule.
	askTimeout = 2 * lockSeconds * time.Second
)

// The variants, as iptables --version names them; versions before 1.8 name none and are legacy.
const (
	nfTables = "nf_tables"
	legacy   = "legacy"
)

// Program is the iptables programs of one family and variant.
type Program struct {
	ipt           *goiptables.IPTables // nil: its features are not known
	path, number  string
	save, restore string
	ipv6          bool
	// Variant is nf_tables or legacy.
	Variant string

	nftables nfgen.Reader
}

// RandomFully says whether MASQUERADE --random-fully is supported; only Detect finds out.
func (p *Program) RandomFully() bool { return p.ipt != nil && p.ipt.HasRandomFully() }

// Version is like "1.8.9 (nf_tables)".
func (p *Program) Version() string { return fmt.Sprintf("%s (%s)", p.number, p.Variant) }

// Detect finds the programs to use for a family: those whose variant already holds
// the node's Kubernetes chains, else the first of iptables, iptables-nft and
// iptables-legacy that the kernel accepts. It writes the chain KUBE-IPTABLES-HINT
// into that variant, and warns if both are in use.
func Detect(ctx context.Context, f corev1.IPFamily, log *slog.Logger) (*Program, error) {
	name, proto := names(f)
	found, problems := installed(ctx, name, proto)
	var inUse []*Program
	for _, p := range found {
		if p.inUse(ctx) {
			inUse = append(inUse, p)
		}
	}
	if len(inUse) > 1 {
		log.Warn("Packets pass through both variants of iptables, since both hold Kubernetes rules; remove those that are not in use (iptables-legacy-save, iptables-nft-save)",
			"family", f, "using", inUse[0].Version())
	}
	for _, p := range append(inUse, found...) {
		if err := errors.Join(p.probe(ctx), p.learn(proto)); err != nil {
			problems = append(problems, fmt.Errorf("trying %q: %w", p.path, err))
			continue
		}
		log.Info("Found iptables", "family", f, "path", p.path, "version", p.Version())
		return p, nil
	}
	return nil, fmt.Errorf("looking for a working %s (install the package iptables, 1.6.2 or newer): %w", name, errors.Join(problems...))
}

// InUse finds the programs of each variant that holds Kubernetes rules of a family.
func InUse(ctx context.Context, f corev1.IPFamily) []*Program {
	name, proto := names(f)
	found, _ := installed(ctx, name, proto)
	return slices.DeleteFunc(found, func(p *Program) bool { return !p.inUse(ctx) })
}

// installed are the variants that exist, the default first, and what is wrong with the others.
func installed(ctx context.Context, name string, proto goiptables.Protocol) (found []*Program, problems []error) {
	for _, c := range []struct{ name, variant string }{{name, ""}, {name + "-nft", nfTables}, {name + "-legacy", legacy}} {
		if slices.ContainsFunc(found, func(p *Program) bool { return p.Variant == c.variant }) {
			continue // the default again, under its full name
		}
		p, err := open(ctx, c.name, proto)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		found = append(found, p)
	}
	return found, problems
}

func names(f corev1.IPFamily) (string, goiptables.Protocol) {
	if f == corev1.IPv6Protocol {
		return "ip6tables", goiptables.ProtocolIPv6
	}
	return "iptables", goiptables.ProtocolIPv4
}

// versionText is what --version prints, such as "iptables v1.8.9 (nf_tables)".
var versionText = regexp.MustCompile(`v([\d.]+)(?: \((\w+)\))?`)

func open(ctx context.Context, name string, proto goiptables.Protocol) (*Program, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("finding %q: %w", name, err)
	}
	p := &Program{path: path, save: path + "-save", restore: path + "-restore", Variant: legacy, ipv6: proto == goiptables.ProtocolIPv6}
	said, err := p.ask(ctx, "--version") // with a timeout, which the library lacks
	if err != nil {
		return nil, err
	}
	m := versionText.FindSubmatch(said)
	if m == nil {
		return nil, fmt.Errorf("asking %q for its version: it says %q", path, said)
	}
	p.number = string(m[1])
	if len(m[2]) > 0 {
		p.Variant = string(m[2])
	}
	return p, nil
}

// learn finds out which features the program has.
func (p *Program) learn(proto goiptables.Protocol) (err error) {
	p.ipt, err = goiptables.New(goiptables.IPFamily(proto), goiptables.Timeout(lockSeconds), goiptables.Path(p.path))
	return err
}

// inUse says whether the variant holds chains that Kubernetes made.
func (p *Program) inUse(ctx context.Context) bool {
	if p.Variant == legacy && !p.anyTable() {
		return false
	}
	for _, table := range []string{"mangle", "nat"} {
		text, err := p.run(ctx, p.save, nil, "-t", table)
		if err != nil {
			return false // the kernel does not support the variant
		}
		if bytes.Contains(text, []byte(":"+rules.ChainHint+" ")) || bytes.Contains(text, []byte(":"+rules.ChainServices+" ")) {
			return true
		}
	}
	return false
}

// anyTable says whether the kernel has any table of the legacy variant, without making one as
// iptables-legacy-save does. The kernel lists them in a file of the network namespace
// (net/ipv4/netfilter, xt_table_seq).
func (p *Program) anyTable() bool {
	file := "/proc/thread-self/net/ip_tables_names"
	if p.ipv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(file)
	return err == nil && len(bytes.TrimSpace(names)) > 0
}

// probe writes the hint, which shows whether the kernel accepts rules of this variant.
func (p *Program) probe(ctx context.Context) error {
	return p.Restore(ctx, []byte("*mangle\n:"+rules.ChainHint+" - [0:0]\nCOMMIT\n"))
}

// Translates returns an error if the kernel has no table nat, as some have none for IPv6.
func (p *Program) Translates(ctx context.Context) error {
	if err := p.Restore(ctx, []byte("*nat\n:"+rules.ChainCanary+" - [0:0]\nCOMMIT\n")); err != nil {
		return fmt.Errorf("trying table nat of %q: %w", p.path, err)
	}
	return nil
}

// Accounting returns an error if rules cannot use a counter of nfnetlink_acct, which must exist.
func (p *Program) Accounting(ctx context.Context, counter string) error {
	const try = "KUBE-ACCOUNTING-TRY"
	return p.Restore(ctx, []byte("*mangle\n:"+try+" - [0:0]\n-A "+try+" -m nfacct --nfacct-name "+counter+"\nCOMMIT\n"+
		"*mangle\n-F "+try+"\n-X "+try+"\nCOMMIT\n"))
}

// Save is iptables-save of all tables.
func (p *Program) Save(ctx context.Context) ([]byte, error) { return p.run(ctx, p.save, nil) }

var refusedLine = regexp.MustCompile(`line:? (\d+)`)

// Restore is iptables-restore --noflush.
func (p *Program) Restore(ctx context.Context, text []byte) error {
	_, err := p.run(ctx, p.restore, text, "--noflush", "-w", wait)
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return err
	}
	refused := &RefusedError{Said: err.Error()}
	if m := refusedLine.FindStringSubmatch(refused.Said); m != nil {
		refused.Line, _ = strconv.Atoi(m[1])
	}
	return refused
}

// Delete removes the rule from its chain, if it exists.
func (p *Program) Delete(ctx context.Context, j rules.Jump) error {
	if has, err := p.Has(ctx, j); !has || err != nil {
		return err
	}
	_, err := p.ask(ctx, append([]string{"-w", wait, "-t", j.Table, "-D", j.From}, j.Rule...)...)
	return err
}

// Has says whether a rule is in its chain, or, with an empty Rule, whether the chain From exists.
func (p *Program) Has(ctx context.Context, j rules.Jump) (bool, error) {
	args := append([]string{"-w", wait, "-t", j.Table, "-C", j.From}, j.Rule...)
	if len(j.Rule) == 0 {
		args = []string{"-w", wait, "-t", j.Table, "-S", j.From, "1"}
	}
	_, err := p.ask(ctx, args...)
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() <= 2 && failed.ExitCode() > 0 {
		return false, nil // 1: there is no such rule; 2: nor the chain that it leads to
	}
	return err == nil, err
}

// ask runs the program for something that takes no time.
func (p *Program) ask(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return p.run(ctx, p.path, nil, args...)
}

// run returns standard output; the error holds standard error, shortened.
func (p *Program) run(ctx context.Context, path string, stdin []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("running %q: it hangs, and was killed: %w", path+" "+strings.Join(args, " "), ctx.Err())
		}
		text := strings.TrimSpace(said.String())
		if strings.Contains(text, "xtables lock") {
			text += "; the lock " + lockFile() + " is held by " + cmp.Or(lockHolder(), "nobody any more")
		}
		return nil, fmt.Errorf("running %q: %w: %s", path+" "+strings.Join(args, " "), err, clip.Start(text, 1000))
	}
	return out.Bytes(), nil
}
