package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	registry = "registry.k8s.io/"
	e2e      = registry + "e2e-test-images/"
	pauseRef = registry + "pause:3.10.2"
	// iptablesRef is looked into for conntrack alone.
	iptablesRef = registry + "build-image/distroless-iptables:v0.9.6"
)

// recipe is one image: the names of its layers, lowest first, and its config.
type recipe struct {
	layers []string
	config imagespec.ImageConfig
}

// E2E lists the references of all images that Build knows, sorted.
func E2E() []string { return sorted(recipes()) }

// recipes lists the images as the suite of Kubernetes 1.36 names them (test/utils/image/manifest.go
// there).
func recipes() map[string]recipe {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config := func(entrypoint, cmd string, ports ...string) imagespec.ImageConfig {
		c := imagespec.ImageConfig{Env: env, Entrypoint: strings.Fields(entrypoint), Cmd: strings.Fields(cmd), WorkingDir: "/"}
		for _, p := range ports {
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			c.ExposedPorts[p+"/tcp"] = struct{}{}
		}
		return c
	}
	agnhost := recipe{[]string{"debian", "wget", "agnhost", "agnhost-files"}, config("/agnhost", "pause", "80", "8080", "8081", "9376", "5000")}
	pause := recipe{[]string{"pause"}, config("/pause", "")}
	pause.config.User = "65535:65535"
	nonroot := recipe{[]string{"debian"}, config("", "bash")}
	nonroot.config.User = "1234"
	nginx := recipe{[]string{"debian", "nginx"}, config("", "", "80")}
	nginx.config.Cmd = []string{"nginx", "-g", "daemon off;"}
	nginx.config.StopSignal = "SIGQUIT"
	pet := func(name string) recipe {
		return recipe{append(append([]string(nil), agnhost.layers...), name), config("/agnhost", "test-webserver", "80")}
	}
	busybox := recipe{[]string{"busybox"}, config("", "sh")}
	return map[string]recipe{
		pauseRef:                           pause,
		iptablesRef:                        {[]string{"debian", "conntrack"}, config("", "bash")},
		e2e + "agnhost:2.63.0":             agnhost,
		e2e + "agnhost:2.55":               agnhost,
		e2e + "busybox:1.37.0-1":           busybox,
		e2e + "busybox:1.36.1-1":           busybox,
		e2e + "nginx:1.27-0":               nginx,
		e2e + "nginx:1.15-4":               nginx,
		e2e + "perl:5.26":                  {[]string{"debian", "perl"}, config("", "perl -de0")},
		e2e + "nonewprivs:1.4":             {[]string{"busybox", "nonewprivs"}, config("", "nnp")},
		e2e + "nonroot:1.5":                nonroot,
		e2e + "regression-issue-74839:1.4": {[]string{"regression-issue-74839"}, config("/regression-issue-74839", "")},
		e2e + "resource-consumer:1.14":     {[]string{"debian", "resource-consumer"}, config("/consumer", "", "8080")},
		e2e + "glibc-dns-testing:2.0.0":    {[]string{"debian"}, config("", "bash")},
		e2e + "ipc-utils:1.4":              {[]string{"debian"}, config("", "bash")},
		e2e + "kitten:1.8":                 pet("kitten"),
		e2e + "nautilus:1.8":               pet("nautilus"),
	}
}

// smallRecipes are the images of BuildSmall.
func smallRecipes() map[string]recipe {
	all, out := recipes(), map[string]recipe{}
	for _, ref := range []string{pauseRef, e2e + "busybox:1.37.0-1", e2e + "agnhost:2.63.0"} {
		out[ref] = all[ref]
	}
	agnhost := out[e2e+"agnhost:2.63.0"]
	agnhost.layers = []string{"busybox", "agnhost", "agnhost-files"}
	out[e2e+"agnhost:2.63.0"] = agnhost
	return out
}

// entries lists the content of a layer.
func (b *builder) entries(ctx context.Context, name string) ([]entry, error) {
	switch name {
	case "pause":
		return []entry{program("pause", b.pause)}, nil
	case "debian":
		return b.debianEntries(ctx, nil)
	case "nginx":
		return b.debianEntries(ctx, nginxFiles(), "nginx")
	case "perl", "conntrack":
		return b.debianEntries(ctx, nil, name)
	case "resource-consumer":
		return b.resourceConsumer(ctx)
	case "busybox":
		return b.busybox(ctx)
	case "wget":
		return []entry{{path: "usr/bin/wget", mode: 0o755, content: []byte(wget)}}, nil
	case "agnhost":
		return b.programs(map[string]string{"agnhost": b.tools.Agnhost}, symlink("agnhost-2", "agnhost"))
	case "agnhost-files":
		return b.agnhostFiles(ctx)
	case "regression-issue-74839":
		return b.programs(map[string]string{name: b.tools.Regression74839})
	case "nonewprivs":
		entries, err := b.programs(map[string]string{"usr/local/bin/nnp": b.tools.Nonewprivs})
		for i := range entries {
			entries[i].mode |= fs.ModeSetuid | fs.ModeSetgid
		}
		return entries, err
	case "kitten", "nautilus":
		return []entry{text("data.json", fmt.Sprintf("{\n\"image\": \"%s.jpg\"\n}\n", name)), text(name+".jpg", "a picture of a "+name+"\n")}, nil
	}
	return nil, errors.New("no such layer")
}

// programs lists binaries by their paths in the image.
func (b *builder) programs(files map[string]string, more ...entry) ([]entry, error) {
	for _, p := range sorted(files) {
		if files[p] == "" {
			return nil, fmt.Errorf("no program given for %q: set its field of ToolPaths", "/"+p)
		}
		more = append(more, program(p, files[p]))
	}
	return more, nil
}

// debianEntries lists the base, or what packages add to it.
func (b *builder) debianEntries(ctx context.Context, more []entry, packages ...string) ([]entry, error) {
	t, err := b.debian(ctx)
	if err != nil {
		return nil, err
	}
	var entries []entry
	if len(packages) == 0 {
		entries, err = t.base()
	} else {
		entries, err = t.extra(packages...)
	}
	return append(entries, more...), err
}

func (b *builder) resourceConsumer(ctx context.Context) ([]entry, error) {
	files := map[string]string{"consumer": b.tools.ResourceConsumer}
	if b.tools.ConsumeCPU != "" {
		files["consume-cpu"] = b.tools.ConsumeCPU
	}
	entries, err := b.programs(files)
	if err != nil {
		return nil, err
	}
	return b.debianEntries(ctx, entries, "stress")
}

// nginxFiles make Debian's nginx look like the real image: where its pages are and where it logs
// to.
func nginxFiles() []entry {
	const conf = `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log notice;
events { worker_connections 256; }
http {
	include /etc/nginx/mime.types;
	default_type application/octet-stream;
	access_log /var/log/nginx/access.log;
	server {
		listen 80 default_server;
		listen [::]:80 default_server;
		root /usr/share/nginx/html;
		index index.html;
	}
}
`
	const page = "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n</body>\n</html>\n"
	return []entry{
		text("etc/nginx/nginx.conf", conf), text("usr/share/nginx/html/index.html", page), dir("var/lib/nginx", 0o755), dir("var/log/nginx", 0o755),
		symlink("var/log/nginx/access.log", "/dev/stdout"), symlink("var/log/nginx/error.log", "/dev/stderr"),
	}
}

// busybox is Debian's static busybox with a link for every applet but sh, which see.
func (b *builder) busybox(ctx context.Context) ([]entry, error) {
	t, err := b.debian(ctx)
	if err != nil {
		return nil, err
	}
	box := filepath.Join(t.root, "usr/bin/busybox")
	out, err := exec.CommandContext(ctx, box, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing busybox's applets: %w", err)
	}
	entries := []entry{
		program("bin/busybox", box), program("bin/bash", filepath.Join(t.root, "usr/bin/bash-static")),
		text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
		text("etc/group", "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"), text("etc/nsswitch.conf", "hosts: files dns\n"),
		dir("root", 0o700), dir("home", 0o755), dir("etc", 0o755), dir("var", 0o755), dir("usr/sbin", 0o755),
		dir("dev", 0o755), dir("proc", 0o755), dir("sys", 0o755), dir("run", 0o755), symlink("usr/bin/env", "/bin/env"),
		{path: "tmp", mode: os.ModeDir | os.ModeSticky | 0o777},
	}
	for _, a := range strings.Fields(string(out)) {
		if a != "busybox" && a != "sh" && a != "bash" {
			entries = append(entries, symlink("bin/"+a, "busybox"))
		}
	}
	return append(entries, program("bin/sh", b.sh)), nil
}

// wget does with curl what the suite asks of the real image's. Busybox, linked statically with
// glibc, falls over Debian's name services.
const wget = `#!/bin/sh
limit=60 out=
while getopts qSO:T: o; do
	case $o in
	O) out=$OPTARG ;;
	T) limit=$OPTARG ;;
	q | S) ;;
	*) exit 1 ;;
	esac
done
shift $((OPTIND - 1))
exec curl -sS -f -m "$limit" ${out:+-o "$out"} "$@"
`

// withFolders adds the folders that entries need and do not list.
func withFolders(entries []entry) []entry {
	have := map[string]bool{}
	for _, e := range entries {
		have[e.path] = have[e.path] || e.mode.IsDir()
	}
	var more []entry
	for _, e := range entries {
		for d := path.Dir(e.path); d != "."; d = path.Dir(d) {
			if _, ok := have[d]; !ok {
				have[d] = true
				more = append(more, dir(d, 0o755))
			}
		}
	}
	return append(more, entries...)
}
