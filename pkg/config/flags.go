package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Flags are those of the command line. They win over files.
type Flags struct {
	paths []string
	given []assignment
}

type assignment struct {
	flag, path string
	value      any
}

type flagDef struct {
	name, path, usage string
	parse             func(string) (any, error) // nil: text, read as the field's type
}

// flagTable maps each flag to the field that it sets. The names are those of kubelet and
// kube-proxy, if these have such a flag.
func flagTable() []flagDef {
	var all []flagDef
	for _, s := range flagSections() {
		all = append(all, s.flags...)
	}
	return all
}

// flagSection is what help shows under one heading.
type flagSection struct {
	heading string
	flags   []flagDef
}

func flagSections() []flagSection {
	return []flagSection{
		{"Node", nodeFlags()},
		{"Identity", identityFlags()},
		{"Pods", podsFlags()},
		{"Services", servicesFlags()},
		{"containerd and CNI", containerFlags()},
		{"The node's API", serverFlags()},
		{"Folders and files", foldersFlags()},
		{"Log", logFlags()},
	}
}

func nodeFlags() []flagDef {
	return []flagDef{
		{"hostname-override", kindAgent + ".nodeName", "name of the Node (default the host name)", nil},
		{"node-ip", kindAgent + ".nodeIPs", "the node's addresses, one per family, comma-separated", list},
		{"node-labels", kindAgent + ".nodeLabels", "labels to register with, as k=v,k=v", pairs},
		{"register-with-taints", kindKubelet + ".registerWithTaints", "taints to register with, as k=v:Effect,k:Effect", taints},
		{"register-node", kindKubelet + ".registerNode", "create the Node object (default true)", boolean},
		{"provider-id", kindKubelet + ".providerID", "spec.providerID of the Node", nil},
		{"max-pods", kindKubelet + ".maxPods", "most pods on this node (default 110)", number},
		{"fail-swap-on", kindKubelet + ".failSwapOn", "refuse to start with swap on (default true)", boolean},
		{"fail-cgroupv1", kindKubelet + ".failCgroupV1", "refuse to start on cgroup v1 (default false: warn)", boolean},
	}
}

func identityFlags() []flagDef {
	return []flagDef{
		{"kubeconfig", kindAgent + ".paths.kubeconfig", "kubeconfig of this node (default /etc/kubernetes/kubelet.conf)", nil},
		{"bootstrap-kubeconfig", kindAgent + ".paths.bootstrapKubeconfig", "kubeconfig that gets the first certificate if --kubeconfig is missing", nil},
		{"cert-dir", kindAgent + ".paths.certDir", "folder of certificates (default ROOT/pki)", nil},
		{"cluster-ca", kindAgent + ".paths.clusterCA", "CA file that join writes (default /etc/kubernetes/pki/ca.crt)", nil},
		{"rotate-certificates", kindKubelet + ".rotateCertificates", "renew the client certificate (default true)", boolean},
		{"rotate-server-certificates", kindKubelet + ".serverTLSBootstrap", "get the serving certificate by CSR (default false: self-signed)", boolean},
	}
}

func podsFlags() []flagDef {
	return []flagDef{
		{"pods", kindAgent + ".pods", "pods half: on or off (default on)", nil},
		{"cluster-dns", kindKubelet + ".clusterDNS", "addresses of the cluster's DNS, comma-separated", list},
		{"cluster-domain", kindKubelet + ".clusterDomain", "domain of the cluster's DNS", nil},
		{"pod-manifest-path", kindKubelet + ".staticPodPath", "folder of static pods", nil},
		{"cgroup-driver", kindKubelet + ".cgroupDriver", "cgroupfs or systemd (default cgroupfs)", nil},
		{"cgroup-root", kindKubelet + ".cgroupRoot", "parent cgroup of kubepods (default /)", nil},
	}
}

func servicesFlags() []flagDef {
	return []flagDef{
		{"proxier", kindAgent + ".proxier", "services half: on or off (default on)", nil},
		{"proxy-mode", kindProxy + ".mode", "iptables (default, and in the place of ipvs, which is not implemented yet) or nftables", nil},
		{"cluster-cidr", kindProxy + ".clusterCIDR", "the pods' addresses, one CIDR per family", nil},
		{"proxy-healthz-bind-address", kindProxy + ".healthzBindAddress", "address:port of the proxy's /healthz (default 0.0.0.0:10256)", nil},
		{"proxy-metrics-bind-address", kindProxy + ".metricsBindAddress", "address:port of the proxy's /metrics (default 127.0.0.1:10249)", nil},
	}
}

func containerFlags() []flagDef {
	return []flagDef{
		{"containerd-address", kindAgent + ".containerd.address", "containerd's socket (default /run/containerd/containerd.sock)", nil},
		{"container-runtime-endpoint", kindKubelet + ".containerRuntimeEndpoint", "as --containerd-address, with unix://", nil},
		{"containerd-namespace", kindAgent + ".containerd.namespace", "containerd namespace (default k8s.io)", nil},
		{"snapshotter", kindAgent + ".containerd.snapshotter", "containerd snapshotter (default overlayfs)", nil},
		{"allow-foreign-pods", kindAgent + ".containerd.allowForeignPods", "start pods although containerd's CRI plugin still runs a kubelet's pods (default false)", boolean},
		{"cni-bin-dir", kindAgent + ".cni.binDirs", "folders of CNI plugins, comma-separated (default /opt/cni/bin)", list},
		{"cni-conf-dir", kindAgent + ".cni.confDir", "folder of CNI configuration (default /etc/cni/net.d)", nil},
		{"cni-cache-dir", kindAgent + ".cni.cacheDir", "folder of CNI results (default /var/lib/cni/cache)", nil},
	}
}

func serverFlags() []flagDef {
	return []flagDef{
		{"address", kindKubelet + ".address", "address of the node's API (default 0.0.0.0)", nil},
		{"port", kindKubelet + ".port", "port of the node's API (default 10250)", number},
		{"healthz-bind-address", kindKubelet + ".healthzBindAddress", "address of /healthz (default 127.0.0.1)", nil},
		{"healthz-port", kindKubelet + ".healthzPort", "port of /healthz, 0: off (default 10248)", number},
		{"client-ca-file", kindKubelet + ".authentication.x509.clientCAFile", "CA of the node API's clients (default --cluster-ca, as soon as it exists)", nil},
		{"tls-cert-file", kindKubelet + ".tlsCertFile", "serving certificate (default: from --cert-dir)", nil},
		{"tls-private-key-file", kindKubelet + ".tlsPrivateKeyFile", "its key", nil},
	}
}

func foldersFlags() []flagDef {
	return []flagDef{
		{"root-dir", kindAgent + ".paths.rootDir", "folder of pods' volumes and state (default /var/lib/kubelet)", nil},
		{"run-dir", kindAgent + ".paths.runDir", "folder of sockets and namespaces (default /run/nodeagent)", nil},
		{"pod-logs-dir", kindKubelet + ".podLogsDir", "folder of container logs (default /var/log/pods)", nil},
		{"container-logs-dir", kindAgent + ".paths.containerLogsDir", "folder of links to container logs (default /var/log/containers)", nil},
		{"pump", kindAgent + ".paths.pump", "log pump program (default nodeagent-pump beside this program)", nil},
		{"status-socket", kindAgent + ".paths.statusSocket", "socket of `nodeagent status` (default RUN/status.sock)", nil},
	}
}

func logFlags() []flagDef {
	return []flagDef{
		{"v", kindKubelet + ".logging.verbosity", "log level: 0 to 3 what happens, from 4 on details too, from 6 on each request to the API server, from 8 on what it holds (default 2)", number},
		{"log-format", kindKubelet + ".logging.format", "text or json (default text)", nil},
	}
}

// AddFlags defines the flags. Load checks their values together with those of files.
func (f *Flags) AddFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.paths, "config", nil, "configuration file or folder of files; may be given several times, later wins")
	for _, s := range flagSections() {
		for _, def := range s.flags {
			f.addFlag(fs, def)
			fs.Lookup(def.name).Annotations = map[string][]string{FlagGroup: {s.heading}}
		}
	}
}

// FlagGroup is the annotation of a flag that names the heading under which a help shows it.
const FlagGroup = "group"

func (f *Flags) addFlag(fs *pflag.FlagSet, def flagDef) {
	p := fs.VarPF(&setter{f, def, ""}, def.name, "", def.usage)
	if isBoolean(def) {
		p.NoOptDefVal = "true"
	}
}

// Paths are the values of --config.
func (f *Flags) Paths() []string { return f.paths }

// Args are the given flags in order, for a unit's environment file. No flag holds a secret.
func (f *Flags) Args() []string {
	var args []string
	for _, p := range f.paths {
		args = append(args, "--config="+p)
	}
	for _, a := range f.given {
		args = append(args, fmt.Sprintf("%s=%s", a.flag, a.value))
	}
	return args
}

type setter struct {
	flags *Flags
	def   flagDef
	text  string
}

func (s *setter) String() string { return s.text }
func (s *setter) Type() string {
	if isBoolean(s.def) {
		return "bool"
	}
	return "string"
}

func (s *setter) Set(text string) error {
	if s.def.parse != nil {
		if _, err := s.def.parse(text); err != nil {
			return err
		}
	}
	s.text = text
	s.flags.given = append(s.flags.given, assignment{"--" + s.def.name, s.def.path, text})
	return nil
}

// apply puts the flags into the documents, after the files.
func (f *Flags) apply(d *documents) {
	defs := map[string]flagDef{}
	for _, def := range append(flagTable(), kubeletFlagTable()...) {
		defs["--"+def.name] = def
	}
	all := map[string]string{}
	for _, a := range f.given {
		text, ok := a.value.(string)
		if !ok {
			continue
		}
		before, again := all[a.flag]
		if again && addsUp(a.flag) {
			text = before + "," + text
		}
		all[a.flag] = text
		var value any = text
		if p := defs[a.flag].parse; p != nil {
			value, _ = p(text) // Set has checked it
		}
		if !again && replaces(a.flag) {
			d.forget(a.path)
		}
		d.assign(a.flag, a.path, value)
	}
}

// addsUp reports whether a flag, given several times, makes one list, as in kubelet.
func addsUp(flag string) bool {
	return slices.Contains([]string{"--cluster-dns", "--allowed-unsafe-sysctls", "--tls-cipher-suites", "--enforce-node-allocatable"}, flag)
}

// replaces reports whether a flag replaces the whole map of a file, as in kubelet, rather than
// adding to it.
func replaces(flag string) bool {
	return slices.Contains([]string{
		"--eviction-hard", "--eviction-soft", "--eviction-soft-grace-period", "--eviction-minimum-reclaim", "--kube-reserved", "--system-reserved",
	}, flag)
}

func isBoolean(def flagDef) bool {
	if def.parse == nil {
		return false
	}
	v, err := def.parse("true")
	_, ok := v.(bool)
	return err == nil && ok
}

func boolean(s string) (any, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return nil, errors.New("must be true or false")
	}
	return b, nil
}

func number(s string) (any, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, errors.New("must be a whole number")
	}
	return n, nil
}

func list(s string) (any, error) {
	var l []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			l = append(l, e)
		}
	}
	return l, nil
}

func pairs(s string) (any, error) {
	m := map[string]string{}
	for e := range strings.SplitSeq(s, ",") {
		if e == "" {
			continue
		}
		k, v, _ := strings.Cut(e, "=")
		m[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return m, nil
}

// taints reads key[=value]:Effect, as kubectl taint does.
func taints(s string) (any, error) {
	var l []map[string]string
	for e := range strings.SplitSeq(s, ",") {
		if e == "" {
			continue
		}
		i := strings.LastIndexByte(e, ':')
		if i < 0 {
			return nil, fmt.Errorf("reading taint %q: want key=value:Effect or key:Effect", e)
		}
		k, v, _ := strings.Cut(e[:i], "=")
		t := map[string]string{"key": k, "effect": e[i+1:]}
		if v != "" {
			t["value"] = v
		}
		l = append(l, t)
	}
	return l, nil
}
