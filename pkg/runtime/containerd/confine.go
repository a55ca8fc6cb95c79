package containerd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"strings"
	"time"

	contrib "github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// AppArmorProfile is the profile of containers that name none. Its text is containerd's default,
// which CRI loads as cri-containerd.apparmor.d.
const AppArmorProfile = "nodeagent-default"

// appArmorProfiles lists the loaded profiles, one a line: "name (enforce)".
const appArmorProfiles = "/sys/kernel/security/apparmor/profiles"

// parserTime bounds the program that loads a profile.
const parserTime = 30 * time.Second

// DefaultSeccomp returns containerd's default profile for a spec whose capabilities are set.
func DefaultSeccomp(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	return seccomp.DefaultProfile(s), nil
}

// HostHasAppArmor reports whether the kernel enforces AppArmor and apparmor_parser is installed to
// load profiles.
func HostHasAppArmor() bool { return apparmor.HostSupports() }

// AppArmor finds and loads profiles; the zero value is ready.
type AppArmor struct {
	profiles, parser string // set by tests; "" for the machine's own
}

// Ensure returns nil if the profile is loaded. It loads AppArmorProfile itself; any other profile
// must have been loaded by the node's administrator.
func (a AppArmor) Ensure(ctx context.Context, name string) error {
	setDefault(&a.profiles, appArmorProfiles)
	setDefault(&a.parser, "apparmor_parser")
	list, err := os.ReadFile(a.profiles)
	if err != nil {
		return fmt.Errorf("listing AppArmor profiles: %w", err)
	}
	switch {
	case hasProfile(list, name):
		return nil
	case name != AppArmorProfile:
		return fmt.Errorf("apparmor profile not found %s: load it on this node with apparmor_parser", name)
	}
	text, err := contrib.DumpDefaultProfile(name)
	if err != nil {
		return fmt.Errorf("writing AppArmor profile %q: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, parserTime)
	defer cancel()
	parser := osexec.CommandContext(ctx, a.parser, "-Kr")
	parser.Stdin = strings.NewReader(text)
	parser.WaitDelay = time.Second
	out, err := parser.CombinedOutput()
	if errors.Is(err, osexec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("loading AppArmor profile %q: %w: install the apparmor package on this node", name, err)
	}
	if err != nil {
		return fmt.Errorf("loading AppArmor profile %q: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func hasProfile(list []byte, name string) bool {
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		if loaded, mode, found := strings.Cut(lines.Text(), " ("); found && loaded == name && strings.HasSuffix(mode, ")") {
			return true
		}
	}
	return false
}
