// Command sh is /bin/sh of the busybox image. Busybox's own shell is what the suite expects the
// messages of, but the one that Debian builds drops environment variables whose names are no shell
// names, such as data-1; then it is bash.
package main

import (
	"os"
	"strings"
	"syscall"
)

func main() {
	shell := "/bin/ash" // a link to busybox
	for _, v := range syscall.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.ContainsFunc(name, notInName) {
			shell = "/bin/bash"
		}
	}
	args := append([]string(nil), os.Args...)
	if len(args) == 0 || shell == "/bin/ash" && !strings.HasSuffix(args[0], "sh") {
		args = append([]string{"sh"}, args[min(1, len(args)):]...) // busybox goes by this name
	}
	_ = syscall.Exec(shell, args, syscall.Environ())
	os.Exit(126)
}

func notInName(r rune) bool {
	return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}
