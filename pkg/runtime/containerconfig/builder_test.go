package containerconfig_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/emptydir"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

func TestMain(m *testing.M) { os.Exit(volumetest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bed is a builder with real folders and volumes, and everything else in memory.
type bed struct {
	root    string
	objects *volumetest.Objects
	volumes *volumeset.Set
	cgroups *groups
	users   users
	node    containerconfig.Node
	warned  []string
	labels  *labels
	armor   *armor
	// podLabels are the sandbox's; empty where the machine has no SELinux
	podLabels runtime.SELinuxLabels
	*containerconfig.Builder
}

type users map[string]runtime.User

func (u users) User(_ context.Context, _, user string) (runtime.User, error) {
	if found, ok := u[user]; ok {
		return found, nil
	}
	return runtime.User{}, errors.New("no such user: " + user)
}

type groups struct {
	cgroup.Layout
	pods []types.UID
}

func (g *groups) RemovePod(_ context.Context, uid types.UID) error {
	g.pods = slices.DeleteFunc(g.pods, func(u types.UID) bool { return u == uid })
	return nil
}
func (g *groups) Pods() ([]types.UID, error) { return slices.Clone(g.pods), nil }

func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{
		root: t.TempDir(), objects: &volumetest.Objects{}, cgroups: &groups{Layout: cgroup.Layout{PerQOS: true}},
		users: users{"": {}, "1000": {UID: 1000, GID: 0}}, labels: &labels{}, armor: &armor{},
	}
	t.Cleanup(func() { must(t, hostfs.UnmountBelow(b.root)) })
	maps, err := configmap.New(b.objects)
	must(t, err)
	b.volumes, err = volumeset.New(volumeset.Config{Root: b.root, Plugins: []volume.Plugin{emptydir.Plugin{}, maps}})
	must(t, err)
	resolv := filepath.Join(b.root, "resolv.conf")
	must(t, os.WriteFile(resolv, []byte("nameserver 192.168.0.1\n"), 0o600))
	b.node = containerconfig.Node{
		Hostname: "node-1", IPs: []netip.Addr{netip.MustParseAddr("192.168.0.2")}, RecursiveReadOnly: true,
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Spec:        ocispec.Node{MemoryCapacity: 2 << 30, CPUQuotaPeriod: 100000},
	}
	b.Builder, err = containerconfig.New(containerconfig.Config{
		Root: b.root, Run: filepath.Join(b.root, "run"), PodLogs: filepath.Join(b.root, "logs"),
		Volumes: b.volumes, Users: b.users, Objects: b.objects, Cgroups: b.cgroups,
		DNS:     containerconfig.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Domain: "cluster.local", ResolvConf: resolv},
		Node:    func() containerconfig.Node { return b.node },
		Warn:    func(_ *corev1.Pod, reason, _ string) { b.warned = append(b.warned, reason) },
		Seccomp: func(s *specs.Spec) (*specs.LinuxSeccomp, error) { return seccomp.DefaultProfile(s), nil },
		SELinux: b.labels, AppArmor: b.armor,
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return b
}

func podFrom(t testing.TB, text string) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	must(t, yaml.UnmarshalStrict([]byte(text), &pod))
	return &pod
}

// start does what the pod loop does before it starts a container: prepare, mount, build.
func (b *bed) start(t testing.TB, pod *corev1.Pod, name string, attempt int) (runtime.ContainerConfig, error) {
	t.Helper()
	ctx := context.Background()
	must(t, b.Prepare(ctx, pod))
	for _, v := range pod.Spec.Volumes {
		must(t, b.volumes.Mount(ctx, pod, v.Name))
	}
	return b.Container(ctx, runtime.ContainerRequest{
		Pod: pod, HostIPs: b.node.IPs,
		Runtime: runtime.Pod{Sandbox: &runtime.Sandbox{
			ID: "5a4d", Ready: true, IPs: []netip.Addr{netip.MustParseAddr("10.244.0.7")}, SELinux: b.podLabels,
		}},
		Name: name, Attempt: attempt,
		Image: runtime.Image{ID: "sha256:1", Config: imagespec.ImageConfig{Cmd: []string{"/app"}}},
	})
}

func TestEnvironment(t *testing.T) {
	b := newBed(t)
	b.objects.PutConfigMap(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"},
		Data:       map[string]string{"MODE": "conf", "COLOR": "red", "bad=name": "x"},
	})
	b.objects.PutSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keys"}, Data: map[string][]byte{"password": []byte("pw")}})
	b.objects.SetServices([]*corev1.Service{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 443}}},
	}})
	pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u1, labels: {app: web}}
spec:
  nodeName: node-1
  enableServiceLinks: false
  containers:
  - name: app
    image: app
    terminationMessagePath: /dev/termination-log
    envFrom:
    - {prefix: C_, configMapRef: {name: conf}}
    - {configMapRef: {name: none, optional: true}}
    - {secretRef: {name: keys}}
    env:
    - {name: C_MODE, value: env}
    - {name: URL, value: "https://$(KUBERNETES_SERVICE_HOST)/$(C_MODE)/$(LATER)"}
    - {name: LATER, value: "1"}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: PW, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: GONE, valueFrom: {configMapKeyRef: {name: conf, key: none, optional: true}}}
`)
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	got := slices.DeleteFunc(slices.Clone(c.Spec.Process.Env), func(e string) bool {
		return strings.HasPrefix(e, "KUBERNETES_PORT") || strings.HasPrefix(e, "PATH=")
	})
	want := []string{
		"HOSTNAME=web-0", "C_COLOR=red", "C_MODE=env", "password=pw", "URL=https://10.96.0.1/env/$(LATER)", "LATER=1",
		"POD=web-0", "LABEL=web", "IP=10.244.0.7", "HOST=192.168.0.2", "MEM=1024", "PW=pw",
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Each failure has kubelet's reason and text.
func TestConfigErrors(t *testing.T) {
	b := newBed(t)
	b.objects.PutConfigMap(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"}})
	for name, c := range map[string]struct{ spec, want string }{
		"no ConfigMap":    {`env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k}}}]`, `configmap "none" not found`},
		"no key":          {`env: [{name: A, valueFrom: {configMapKeyRef: {name: conf, key: k}}}]`, `couldn't find key k in ConfigMap shop/conf`},
		"no Secret":       {`envFrom: [{secretRef: {name: none}}]`, `secret "none" not found`},
		"no field":        {`env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.x}}}]`, `unsupported fieldPath: spec.x`},
		"root":            {`securityContext: {runAsNonRoot: true}`, `container has runAsNonRoot and image will run as root (pod: "web-0_shop(u1)", container: app)`},
		"no volume":       {`volumeMounts: [{name: none, mountPath: /x}]`, `cannot find volume "none" to mount into container "app"`},
		"subPath up":      {`volumeMounts: [{name: scratch, mountPath: /x, subPath: a/../../b}]`, `must not contain '..'`},
		"subPath unknown": {`volumeMounts: [{name: scratch, mountPath: /x, subPathExpr: "$(NOPE)"}]`, `missing value for "NOPE" in subPathExpr`},
		"no user":         {`securityContext: {runAsUser: 4711}`, `no such user: 4711`},
		"no profile":      {`securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}`, `cannot load seccomp profile "none.json"`},
		"profile outside": {`securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x.json}}`, `must be a path below`},
		"rro not ro":      {`volumeMounts: [{name: scratch, mountPath: /x, recursiveReadOnly: Enabled}]`, `recursive read-only needs readOnly: true`},
	} {
		pod := podFrom(t, "metadata: {name: web-0, namespace: shop, uid: u1}\nspec:\n  volumes: [{name: scratch, emptyDir: {}}]\n  containers:\n  - name: app\n    "+c.spec+"\n")
		_, err := b.start(t, pod, "app", 0)
		var reason *podspec.ReasonError
		if !errors.As(err, &reason) || reason.Reason != "CreateContainerConfigError" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func mountAt(t *testing.T, spec *specs.Spec, dest string) specs.Mount {
	t.Helper()
	for _, m := range spec.Mounts {
		if m.Destination == dest {
			return m
		}
	}
	t.Fatalf("nothing is mounted at %q: %+v", dest, spec.Mounts)
	return specs.Mount{}
}

func TestMounts(t *testing.T) {
	b := newBed(t)
	b.objects.PutConfigMap(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"}, Data: map[string]string{"app.conf": "x=1"}})
	pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u1}
spec:
  volumes: [{name: scratch, emptyDir: {}}, {name: conf, configMap: {name: conf}}]
  containers:
  - name: app
    image: app
    terminationMessagePath: /msg
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: scratch, mountPath: /data, subPathExpr: "logs/$(POD)"}
    - {name: conf, mountPath: /etc/app.conf, subPath: app.conf}
    - {name: conf, mountPath: conf}
    - {name: scratch, mountPath: /rro, readOnly: true, recursiveReadOnly: IfPossible}
`)
	c, err := b.start(t, pod, "app", 2)
	must(t, err)
	if m := mountAt(t, c.Spec, "/conf"); !slices.Contains(m.Options, "ro") {
		t.Errorf("a ConfigMap is not read-only: %v", m.Options)
	}
	if m := mountAt(t, c.Spec, "/rro"); !slices.Contains(m.Options, "rro") {
		t.Errorf("not recursively read-only: %v", m.Options)
	}
	file := mountAt(t, c.Spec, "/etc/app.conf")
	if text, err := os.ReadFile(file.Source); err != nil || string(text) != "x=1" {
		t.Errorf("subPath to a file: %q, %v", text, err)
	}
	data := mountAt(t, c.Spec, "/data")
	must(t, os.WriteFile(filepath.Join(data.Source, "f"), nil, 0o600))
	if _, err := os.Stat(filepath.Join(b.root, "pods/u1/volumes/kubernetes.io~empty-dir/scratch/logs/web-0/f")); err != nil {
		t.Errorf("subPathExpr: %v", err)
	}
	hosts := mountAt(t, c.Spec, "/etc/hosts")
	if text, err := os.ReadFile(hosts.Source); err != nil || !strings.Contains(string(text), "10.244.0.7\tweb-0\n") {
		t.Errorf("hosts: %q, %v", text, err)
	}
	resolv := mountAt(t, c.Spec, "/etc/resolv.conf")
	if text, err := os.ReadFile(resolv.Source); err != nil || !strings.Contains(string(text), "nameserver 10.96.0.10\n") || !slices.Contains(resolv.Options, "ro") {
		t.Errorf("resolv.conf: %q, %v, %v", text, err, resolv.Options)
	}
	shm := mountAt(t, c.Spec, "/dev/shm")
	if info, err := os.Stat(shm.Source); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("/dev/shm: %v, %v", info.Mode(), err)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(shm.Source, &fs))
	if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); fs.Flags&want != want {
		t.Errorf("/dev/shm has the flags %#x, want %#x among them", fs.Flags, want)
	}
	message := mountAt(t, c.Spec, "/msg")
	if info, err := os.Stat(c.MessagePath); err != nil || message.Source != c.MessagePath || info.Mode().Perm() != 0o666 {
		t.Errorf("the message's file %q at %q: %v", c.MessagePath, message.Source, err)
	}
	if want := filepath.Join(b.root, "logs/shop_web-0_u1/app/2.log"); c.LogPath != want {
		t.Errorf("log path %q, want %q", c.LogPath, want)
	}
	if want := "/kubepods/besteffort/podu1/" + c.ID(); c.Spec.Linux.CgroupsPath != want {
		t.Errorf("cgroup %q, want %q", c.Spec.Linux.CgroupsPath, want)
	}
	for range 2 { // the next attempts take the same subPaths
		_, err = b.start(t, pod, "app", 3)
		must(t, err)
	}
}

// A pod's residue is reported, kept while volumes exist, and gone after Cleanup.
func TestMountedFolderAndCleanup(t *testing.T) {
	b, ctx := newBed(t), context.Background()
	pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u1}
spec:
  volumes: [{name: scratch, emptyDir: {}}]
  containers: [{name: app, image: app, terminationMessagePath: /msg, volumeMounts: [{name: scratch, mountPath: /data, subPath: a}]}]
`)
	// no name is needed: the agent may never have seen the pod
	ref := runtime.PodRef{UID: "u1"}
	wantHeld := func(mounts, folder bool) {
		t.Helper()
		mounted, err := b.Mounted("u1")
		must(t, err)
		has, err := b.HasFolder("u1")
		must(t, err)
		if mounted != mounts || has != folder {
			t.Errorf("mounted %v, folder %v; want %v, %v", mounted, has, mounts, folder)
		}
	}
	wantHeld(false, false)
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(c.LogPath), 0o755))
	must(t, os.WriteFile(c.LogPath, nil, 0o600))
	wantHeld(true, true)
	if left, err := b.Leftovers(ctx); err != nil || !slices.Equal(left, []types.UID{"u1"}) {
		t.Errorf("leftovers %v, %v", left, err)
	}
	if err := b.Cleanup(ctx, ref); err == nil {
		t.Error("cleaning up with volumes there is no error")
	}
	if !b.objects.Uses("u1") {
		t.Error("the pod's objects are not watched")
	}
	must(t, b.volumes.Unmount(ctx, "u1"))
	wantHeld(true, true) // a subPath, /dev/shm
	must(t, b.Release("u1"))
	if mounts, err := hostfs.MountsBelow(b.root); err != nil || len(mounts) > 0 {
		t.Errorf("still mounted: %v, %v", mounts, err)
	}
	wantHeld(false, true)
	for range 2 {
		must(t, b.Cleanup(ctx, ref))
	}
	wantHeld(false, false)
	if left, err := b.Leftovers(ctx); err != nil || len(left) > 0 || b.objects.Uses("u1") {
		t.Errorf("leftovers %v, %v; objects still watched: %v", left, err, b.objects.Uses("u1"))
	}
}

func TestSandbox(t *testing.T) {
	b, ctx := newBed(t), context.Background()
	pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u1, annotations: {kubernetes.io/ingress-bandwidth: 10M}}
spec:
  subdomain: web
  setHostnameAsFQDN: true
  shareProcessNamespace: true
  securityContext: {sysctls: [{name: net.core.somaxconn, value: "100"}, {name: kernel/shm_rmid_forced, value: "1"}]}
  initContainers: [{name: i, ports: [{hostPort: 1, containerPort: 1}]}, {name: s, restartPolicy: Always, ports: [{hostPort: 90, containerPort: 9}]}]
  containers: [{name: app, ports: [{hostPort: 80, containerPort: 8080, protocol: UDP, hostIP: 10.0.0.1}, {containerPort: 1}]}]
`)
	c, err := b.Sandbox(ctx, pod, 3)
	must(t, err)
	if c.Hostname != "web-0.web.shop.svc.cluster.local" || !c.ShareProcessNamespace || c.Attempt != 3 || c.CgroupParent != "/kubepods/besteffort/podu1" {
		t.Errorf("got %+v", c)
	}
	if want := []runtime.PortMapping{{HostPort: 90, ContainerPort: 9, Protocol: "tcp"}, {HostPort: 80, ContainerPort: 8080, Protocol: "udp", HostIP: "10.0.0.1"}}; !slices.Equal(c.Ports, want) {
		t.Errorf("ports %+v, want %+v", c.Ports, want)
	}
	if want := map[string]string{
		"kernel.shm_rmid_forced": "1", "net.core.somaxconn": "100",
		"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
	}; !maps.Equal(c.Sysctls, want) || c.IngressBandwidth != 10_000_000 {
		t.Errorf("sysctls %v, bandwidth %d", c.Sysctls, c.IngressBandwidth)
	}
	pod.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "1024"}}
	if c, err = b.Sandbox(ctx, pod, 3); err != nil || c.Sysctls["net.ipv4.ip_unprivileged_port_start"] != "1024" {
		t.Errorf("the pod's own sysctl gives way: %v, %v", c.Sysctls, err)
	}
	host := pod.DeepCopy()
	host.Spec.HostNetwork, host.Spec.SecurityContext = true, nil
	if c, err = b.Sandbox(ctx, host, 3); err != nil || len(c.Sysctls) > 0 {
		t.Errorf("a pod in the node's network gets sysctls %v, %v", c.Sysctls, err)
	}
	pod.Annotations["kubernetes.io/egress-bandwidth"] = "10"
	if _, err := b.Sandbox(ctx, pod, 3); err == nil || !strings.Contains(err.Error(), "egress-bandwidth") {
		t.Errorf("a bandwidth of 10 bits: %v", err)
	}
	class := "gvisor"
	delete(pod.Annotations, "kubernetes.io/egress-bandwidth")
	pod.Spec.RuntimeClassName = &class
	if _, err := b.Sandbox(ctx, pod, 3); err == nil || !strings.Contains(err.Error(), "gvisor") {
		t.Errorf("an unknown runtime class: %v", err)
	}
}

func TestDetect(t *testing.T) {
	n, _, err := containerconfig.Detect()
	must(t, err)
	devices, err := containerconfig.HostDevices()
	must(t, err)
	if n.MemoryCapacity < 1<<20 || len(n.Capabilities) == 0 || len(devices) == 0 {
		t.Errorf("got %d bytes, %d capabilities, %d devices", n.MemoryCapacity, len(n.Capabilities), len(devices))
	}
	t.Logf("v2 %v, swap %v, huge pages %v, least oom_score_adj %d, %d capabilities, %d devices, apparmor %v",
		n.CgroupV2, n.SwapControl, n.HugePageSizes, n.MinOOMScoreAdj, len(n.Capabilities), len(devices), n.AppArmor)
}
