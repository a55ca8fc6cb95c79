package tools

import (
	"context"
	_ "embed" // the list of packages is a file that people read and edit
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

//go:embed packages.txt
var packageList string

// Packages lists the Debian packages that the test bed needs.
func Packages() []string {
	var out []string
	for line := range strings.Lines(packageList) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// MissingPackages lists those that are not installed.
func MissingPackages(ctx context.Context) ([]string, error) {
	want := Packages()
	cmd := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, want...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	// Exit status 1 means that some are unknown; the others are printed anyway.
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("asking dpkg for installed packages (Debian or Ubuntu is needed): %w", err)
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, status, ok := strings.Cut(strings.TrimSpace(line), " "); ok && status == "installed" {
			have[name] = true
		}
	}
	var missing []string
	for _, p := range want {
		// On newer releases pkgconf provides pkg-config.
		if have[p] || p == "pkg-config" && commandExists(p) {
			continue
		}
		missing = append(missing, p)
	}
	return missing, nil
}

func commandExists(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// InstallPackages installs the missing packages with apt-get, as root, writing its output to log.
func InstallPackages(ctx context.Context, log io.Writer) error {
	missing, err := MissingPackages(ctx)
	if err != nil || len(missing) == 0 {
		return err
	}
	_, _ = fmt.Fprintf(log, "installing packages: %s\n", strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	for _, args := range [][]string{{"update", "-q"}, install} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("installing packages %q (as root, with a Debian mirror in reach): %w", missing, err)
		}
	}
	return nil
}
