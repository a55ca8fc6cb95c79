package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/internal/golden"
)

func testHost() Host {
	return Host{Hostname: "Worker-1", Executable: "/usr/local/bin/nodeagent"}
}

func parseFlags(t testing.TB, args []string) *Flags {
	t.Helper()
	var f Flags
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.AddFlags(fs)
	f.AddKubeletFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatalf("parsing flags %q: %v", args, err)
	}
	return &f
}

// TestResolve: the inputs are files in*.yaml and flags, one per line; the outputs are differences
// from the defaults, notes and errors.
func TestResolve(t *testing.T) {
	t.Parallel()
	defaults, _, err := Resolve(nil, &Flags{}, testHost())
	if err != nil {
		t.Fatalf("resolving nothing: %v", err)
	}
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var sources []Source
		names := make([]string, 0, len(files))
		for name := range files {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if strings.HasSuffix(name, ".yaml") {
				sources = append(sources, Source{Name: name, Data: files[name]})
			}
		}
		c, notes, err := Resolve(sources, parseFlags(t, strings.Fields(string(files["flags"]))), testHost())
		out := map[string][]byte{}
		var b strings.Builder
		for _, n := range notes {
			fmt.Fprintln(&b, n)
		}
		if b.Len() > 0 {
			out["want-notes"] = []byte(b.String())
		}
		if err != nil {
			out["want-errors"] = []byte(err.Error() + "\n")
			return out
		}
		b.Reset()
		known := Lines(defaults)
		for _, l := range Lines(c) {
			if !slices.Contains(known, l) || string(files["all"]) != "" {
				fmt.Fprintln(&b, l)
			}
		}
		out["want-config"] = []byte(b.String())
		return out
	})
}

// sample is a value that is valid for a field and not its default.
func sample(path string, t reflect.Type) string {
	special := map[string]string{
		"KubeletConfiguration.address": "10.0.0.1", "KubeletConfiguration.healthzBindAddress": "10.0.0.1",
		"KubeletConfiguration.authorization.mode": "AlwaysAllow", "KubeletConfiguration.cgroupDriver": "systemd",
		"KubeletConfiguration.clusterDNS": "[10.96.0.10]", "KubeletConfiguration.containerLogMaxSize": "1Mi",
		"KubeletConfiguration.containerRuntimeEndpoint": "unix:///x", "KubeletConfiguration.contentType": "application/json",
		"KubeletConfiguration.enforceNodeAllocatable": "[none]", "KubeletConfiguration.allowedUnsafeSysctls": "[net.core.somaxconn]", "KubeletConfiguration.reservedSystemCPUs": "0-1", "KubeletConfiguration.evictionHard": "{memory.available: 1Gi}",
		"KubeletConfiguration.evictionMinimumReclaim": "{memory.available: 1Gi}", "KubeletConfiguration.evictionSoft": "{memory.available: 1Gi}",
		"KubeletConfiguration.evictionSoftGracePeriod": "{memory.available: 1m}", "KubeletConfiguration.hairpinMode": "hairpin-veth",
		"KubeletConfiguration.kubeReserved": "{cpu: 1}", "KubeletConfiguration.systemReserved": "{cpu: 1}",
		"KubeletConfiguration.logging.format": "json", "KubeletConfiguration.memorySwap.swapBehavior": "LimitedSwap",
		"KubeletConfiguration.memoryThrottlingFactor": "0.5", "KubeletConfiguration.podCIDR": "10.1.0.0/24",
		"KubeletConfiguration.podLogsDir": "/x", "KubeletConfiguration.tlsCertFile": "/x", "KubeletConfiguration.tlsPrivateKeyFile": "/x", "KubeletConfiguration.cgroupRoot": "/x", "KubeletConfiguration.staticPodPath": "/x",
		"KubeletConfiguration.volumePluginDir": "/x", "KubeletConfiguration.resolvConf": "/x",
		"KubeletConfiguration.authentication.x509.clientCAFile": "/x",
		"KubeletConfiguration.registerWithTaints":               "[{key: a, effect: NoSchedule}]",
		"KubeletConfiguration.reservedMemory":                   "[{numaNode: 1, limits: {memory: 1Gi}}]",
		"KubeletConfiguration.shutdownGracePeriodByPodPriority": "[{priority: 1, shutdownGracePeriodSeconds: 5}]",
		"KubeletConfiguration.tlsCipherSuites":                  "[TLS_AES_128_GCM_SHA256]", "KubeletConfiguration.tlsMinVersion": "VersionTLS13",
		"KubeletConfiguration.userNamespaces.idsPerPod": "131072", "KubeletConfiguration.clusterDomain": "x.local",
		"KubeProxyConfiguration.bindAddress": "10.0.0.1", "KubeProxyConfiguration.clusterCIDR": "10.1.0.0/16",
		"KubeProxyConfiguration.detectLocalMode": "NodeCIDR", "KubeProxyConfiguration.healthzBindAddress": "10.0.0.1:1",
		"KubeProxyConfiguration.metricsBindAddress": "10.0.0.1:1", "KubeProxyConfiguration.mode": "ipvs",
		"KubeProxyConfiguration.ipvs.scheduler": "lc", "KubeProxyConfiguration.ipvs.excludeCIDRs": "[10.1.0.0/16]",
		"KubeProxyConfiguration.nodePortAddresses": "[primary]",
		"NodeAgentConfiguration.cloudProvider":     "external",
		"NodeAgentConfiguration.pods":              "off", "NodeAgentConfiguration.proxier": "off", "NodeAgentConfiguration.localEndpoints": "off", "NodeAgentConfiguration.nodeIPs": "[10.0.0.1]",
		"NodeAgentConfiguration.containerd.handlers": "{crun: {binary: crun}}", "NodeAgentConfiguration.cni.binDirs": "[/x]",
		"KubeletConfiguration.crashLoopBackOff.maxContainerRestartPeriod": "1m", "KubeletConfiguration.cpuCFSQuotaPeriod": "10ms",
		"KubeletConfiguration.logging.vmodule":   "[{filePattern: a, verbosity: 1}]",
		"KubeProxyConfiguration.logging.vmodule": "[{filePattern: a, verbosity: 1}]",
	}
	if s, ok := special[path]; ok {
		return s
	}
	switch {
	case strings.HasSuffix(t.String(), "Duration"):
		return "7s"
	case strings.Contains(t.String(), "Quantity"):
		return "7"
	case strings.HasPrefix(path, kindAgent+".paths"), strings.HasPrefix(path, kindAgent+".cni"), strings.HasPrefix(path, kindAgent+".containerd.re"),
		path == kindAgent+".containerd.address":
		return "/x"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true"
	case reflect.Map:
		if t.Elem().Kind() == reflect.Bool {
			return "{a: true}"
		}
		if t.Elem().Kind() == reflect.Slice {
			return "{a: [b]}"
		}
		return "{a: b}"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Int32 {
			return "[1]"
		}
		return "[a]"
	case reflect.String:
		return "abc"
	}
	return "7"
}

// TestEveryFieldCounts: a known field either changes the configuration or is listed as without
// effect.
func TestEveryFieldCounts(t *testing.T) {
	t.Parallel()
	defaults, _, err := Resolve(nil, &Flags{}, testHost())
	if err != nil {
		t.Fatal(err)
	}
	companions := map[string]string{ // fields that are valid only with another
		"KubeletConfiguration.tlsCertFile": "tlsPrivateKeyFile: /y", "KubeletConfiguration.tlsPrivateKeyFile": "tlsCertFile: /y",
		"KubeletConfiguration.evictionSoft":                          "evictionSoftGracePeriod: {memory.available: 1m}",
		"KubeletConfiguration.shutdownGracePeriodCriticalPods":       "shutdownGracePeriod: 1m",
		"KubeProxyConfiguration.detectLocal.bridgeInterface":         "detectLocalMode: BridgeInterface",
		"KubeProxyConfiguration.detectLocal.interfaceNamePrefix":     "detectLocalMode: InterfaceNamePrefix",
		"KubeletConfiguration.systemCgroups":                         "cgroupRoot: /x",
		"KubeletConfiguration.mergeDefaultEvictionSettings":          "evictionHard: {memory.available: 1Gi}",
		"KubeletConfiguration.imageMaximumGCAge":                     "imageMinimumGCAge: 1s",
		"KubeletConfiguration.imageGCHighThresholdPercent":           "imageGCLowThresholdPercent: 5",
		"KubeletConfiguration.maxParallelImagePulls":                 "serializeImagePulls: false",
		"KubeletConfiguration.enableContentionProfiling":             "enableProfilingHandler: true",
		"KubeletConfiguration.authentication.webhook.cacheTTL":       "",
		"KubeletConfiguration.authorization.webhook.cacheAuthorized": "",
	}
	var d documents
	for _, path := range everyField() {
		kind, rest, _ := strings.Cut(path, ".")
		into, version, _ := d.target(kind)
		ft := fieldType(reflect.TypeOf(into).Elem(), strings.Split(rest, "."))
		texts := []string{sample(path, ft)}
		if ft.Kind() == reflect.Bool { // one of the two is not the default
			texts = []string{"true", "false"}
		}
		ok := false
		for _, text := range texts {
			for _, withCompanion := range []bool{false, true} {
				doc := fmt.Sprintf("apiVersion: %s\nkind: %s\n", version, kind) + nested(strings.Split(rest, "."), text)
				if companions[path] == "" && withCompanion {
					continue
				}
				if companions[path] != "" && !withCompanion {
					continue
				}
				base := defaults
				if withCompanion {
					head := fmt.Sprintf("apiVersion: %s\nkind: %s\n%s\n", version, kind, companions[path])
					doc += companions[path] + "\n"
					if b, _, err := Resolve([]Source{{"base", []byte(head)}}, &Flags{}, testHost()); err == nil {
						base = b
					}
				}
				c, notes, err := Resolve([]Source{{"f", []byte(doc)}}, &Flags{}, testHost())
				if err != nil {
					t.Errorf("%s: %v\n%s", path, err, doc)
					ok = true
					continue
				}
				ok = ok || len(notes) > 0 || !slices.Equal(Lines(c), Lines(base))
			}
		}
		if !ok {
			t.Errorf("%s: is known, changes nothing, and is not listed as without effect", path)
		}
	}
}

func nested(names []string, text string) string {
	var b strings.Builder
	for i, n := range names {
		b.WriteString(strings.Repeat("  ", i) + n + ":")
		if i < len(names)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + text + "\n"
}

func fieldType(t reflect.Type, names []string) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(names) == 0 {
		return t
	}
	fields := map[string]reflect.Value{}
	collect(reflect.New(t).Elem(), fields)
	return fieldType(fields[names[0]].Type(), names[1:])
}

// TestFlagsCount: every flag sets a field that exists.
func TestFlagsCount(t *testing.T) {
	t.Parallel()
	known := everyField()
	for _, def := range append(flagTable(), kubeletFlagTable()...) {
		if !slices.Contains(known, def.path) {
			t.Errorf("--%s sets %s, which is not a field", def.name, def.path)
		}
	}
}

func TestTypesAreSmall(t *testing.T) {
	t.Parallel()
	c := reflect.TypeOf(Config{})
	for i := range c.NumField() {
		if f := c.Field(i); f.Type.NumField() > 20 {
			t.Errorf("%s has %d fields, 20 are allowed", f.Name, f.Type.NumField())
		}
	}
}

// FuzzResolve: no text makes the loader panic or hang, and every accepted configuration can be
// printed.
func FuzzResolve(f *testing.F) {
	head := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	f.Add(head + "port: 10250\nevictionHard: {memory.available: 1%}\n")
	f.Add(head + "a: &a [*a]\n")
	f.Add(head + "<<: *a\n---\n- x\n")
	f.Add(head + "authentication:\n  <<: {webhook: {enabled: no}}\n  webhook: 5\n")
	f.Add("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\niptables: {masqueradeBit: 99}\nclusterCIDR: '::/0,1.2.3.4'\n")
	f.Add("apiVersion: nodeagent.dev/v1alpha1\nkind: NodeAgentConfiguration\npods: maybe\nnodeIPs: [1, 2.2.2.2, ::1]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Resolve([]Source{{"f.yaml", []byte(text)}}, &Flags{}, testHost())
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if line == "" {
					continue
				}
				return
			}
			t.Fatalf("empty error for %q", text)
		}
		if len(Lines(c)) < 100 {
			t.Fatal("configuration does not print")
		}
	})
}

// FuzzFlags: no command line makes the parser panic, and the flags that join passes to the daemon
// mean the same to both.
func FuzzFlags(f *testing.F) {
	f.Add("--node-ip=10.0.0.1\n--node-labels=a=b,c=d\n--v=4")
	f.Add("--config\n/etc/a,b\n--config=\"x\"\n--max-pods\n12")
	f.Add("--register-node\n--fail-swap-on=false\n--kube-reserved=cpu=100m,memory=1Gi")
	f.Add("--cluster-dns=::1,1.2.3.4\n--proxier\noff\n--")
	f.Fuzz(func(t *testing.T, line string) {
		read := func(args []string) (*Flags, error) {
			var flags Flags
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			fs.SetOutput(io.Discard)
			fs.Usage = func() {}
			flags.AddFlags(fs)
			return &flags, fs.Parse(args)
		}
		first, err := read(strings.Split(line, "\n"))
		if err != nil {
			return
		}
		second, err := read(first.Args())
		if err != nil || !slices.Equal(first.Args(), second.Args()) {
			t.Fatalf("%q is handed on as %q, and read as %q, %v", line, first.Args(), second.Args(), err)
		}
		one, _, oneErr := Resolve(nil, first, testHost())
		two, _, twoErr := Resolve(nil, second, testHost())
		if fmt.Sprint(oneErr) != fmt.Sprint(twoErr) || !slices.Equal(Lines(one), Lines(two)) {
			t.Fatalf("%q means one thing here (%v), another once handed on (%v)", line, oneErr, twoErr)
		}
	})
}
