package tools

import (
	"sort"
	"strings"
)

// The modules below test/tools, from which programs are built.
const (
	modKubernetes = "kubernetes"
	modContainerd = "containerd"
	modRuntime    = "runtime"
	modEtcd       = "etcd"
	modCoreDNS    = "coredns"
	modRegistry   = "registry"
	modLint       = "lint"
)

// KubernetesVersion is what the Kubernetes programs report. It is the version in
// test/tools/kubernetes/go.mod.
const KubernetesVersion = "v1.36.3"

// program says how to build a program.
type program struct {
	module string // folder below test/tools
	pkg    string // import path
	tags   string // build tags, comma separated
	// needs a C compiler, but is linked statically to run in images and on other machines
	cgo  bool
	test bool // the test binary of pkg instead of pkg
	cni  bool // lives in a folder of its own, which is a node's CNI bin dir
}

// catalog lists every program that can be built, by the name of its file.
func catalog() map[string]program {
	all := map[string]program{
		"e2e.test":               {module: modKubernetes, pkg: "k8s.io/kubernetes/test/e2e", test: true},
		"ginkgo":                 {module: modKubernetes, pkg: "github.com/onsi/ginkgo/v2/ginkgo"},
		"agnhost":                {module: modKubernetes, pkg: "k8s.io/kubernetes/test/images/agnhost"},
		"nonewprivs":             {module: modKubernetes, pkg: "k8s.io/kubernetes/test/images/nonewprivs"},
		"resource-consumer":      {module: modKubernetes, pkg: "k8s.io/kubernetes/test/images/resource-consumer"},
		"consume-cpu":            {module: modKubernetes, pkg: "k8s.io/kubernetes/test/images/resource-consumer/consume-cpu"},
		"regression-issue-74839": {module: modKubernetes, pkg: "k8s.io/kubernetes/test/images/regression-issue-74839"},
		"runc":                   {module: modRuntime, pkg: "github.com/opencontainers/runc", tags: "seccomp,netgo,osusergo", cgo: true},
		"etcd":                   {module: modEtcd, pkg: "go.etcd.io/etcd/server/v3"},
		"coredns":                {module: modCoreDNS, pkg: "github.com/coredns/coredns"},
		"registry":               {module: modRegistry, pkg: "github.com/google/go-containerregistry/cmd/registry"},
		"golangci-lint":          {module: modLint, pkg: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"},
	}
	for _, n := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubeadm", "kubelet", "kube-proxy"} {
		all[n] = program{module: modKubernetes, pkg: "k8s.io/kubernetes/cmd/" + n}
	}
	for _, n := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		all[n] = program{module: modContainerd, pkg: "github.com/containerd/containerd/v2/cmd/" + n}
	}
	for _, n := range []string{"main/bridge", "main/loopback", "main/ptp", "ipam/host-local", "meta/portmap"} {
		all[n[strings.LastIndexByte(n, '/')+1:]] = program{module: modRuntime, pkg: "github.com/containernetworking/plugins/plugins/" + n, cni: true}
	}
	return all
}

// ControlPlane names the programs that run the API, DNS and the client that talks to it.
func ControlPlane() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubeadm", "kubectl", "coredns"}
}

// Node names the programs of a node other than its agent: containerd, runc and the CNI plugins.
func Node() []string {
	return append([]string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"}, CNI()...)
}

// CNI names the CNI plugins.
func CNI() []string {
	var out []string
	for n, p := range catalog() {
		if p.cni {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

// Names lists every program that can be built, sorted.
func Names() []string {
	var out []string
	for n := range catalog() {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// ldflags strips symbols, which halves link time and size, and sets the version of the Kubernetes
// programs, which otherwise report v0.0.0 and refuse to work together.
func (p program) ldflags() string {
	flags := []string{"-s", "-w"}
	if p.module == modKubernetes {
		major, minor := "1", strings.Split(KubernetesVersion, ".")[1]
		for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
			for _, kv := range []string{"gitVersion=" + KubernetesVersion, "gitMajor=" + major, "gitMinor=" + minor, "gitTreeState=clean"} {
				flags = append(flags, "-X", pkg+"."+kv)
			}
		}
	}
	if p.cgo {
		flags = append(flags, "-extldflags", "-static")
	}
	return strings.Join(flags, " ")
}
