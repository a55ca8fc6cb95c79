package config

import (
	"encoding/json"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeAgentConfiguration (nodeagent.dev/v1alpha1) has the settings that neither
// KubeletConfiguration nor KubeProxyConfiguration has.
type NodeAgentConfiguration struct {
	metav1.TypeMeta `json:",inline"`

	// Pods and Proxier switch one half off.
	Pods    Switch `json:"pods,omitempty"`
	Proxier Switch `json:"proxier,omitempty"`
	// LocalEndpoints on: Services do not use pods of this node from the moment that they are not
	// ready or terminate, without waiting for the API server.
	LocalEndpoints Switch `json:"localEndpoints,omitempty"`

	// NodeName, NodeIPs and NodeLabels are what --hostname-override, --node-ip and --node-labels
	// set.
	NodeName   string            `json:"nodeName,omitempty"`
	NodeIPs    []string          `json:"nodeIPs,omitempty"`
	NodeLabels map[string]string `json:"nodeLabels,omitempty"`

	// CloudProvider is "external" if a cloud controller manager sets the Node up: the Node
	// registers with the taint node.cloudprovider.kubernetes.io/uninitialized, and the agent keeps
	// the addresses that the controller sets.
	CloudProvider string `json:"cloudProvider,omitempty"`

	// ImagePullProgressDeadline cancels a pull for which the registry has sent nothing for so
	// long; default 5m; 0s: never.
	ImagePullProgressDeadline *metav1.Duration `json:"imagePullProgressDeadline,omitempty"`
	// MaxParallelImagePullsPerRegistry bounds the pulls from one registry, as
	// maxParallelImagePulls bounds all; default a quarter less than that.
	MaxParallelImagePullsPerRegistry *int32 `json:"maxParallelImagePullsPerRegistry,omitempty"`

	Containerd ContainerdConfiguration `json:"containerd,omitempty"`
	CNI        CNIConfiguration        `json:"cni,omitempty"`
	Paths      PathsConfiguration      `json:"paths,omitempty"`
}

// ContainerdConfiguration is where containerd is and how it is used.
type ContainerdConfiguration struct {
	Address           string             `json:"address,omitempty"`
	Namespace         string             `json:"namespace,omitempty"`
	Snapshotter       string             `json:"snapshotter,omitempty"`
	RegistryConfigDir string             `json:"registryConfigDir,omitempty"`
	Handlers          map[string]Handler `json:"handlers,omitempty"`
	// AllowForeignPods starts pods although containerd's CRI plugin still runs pods of a kubelet.
	AllowForeignPods bool `json:"allowForeignPods,omitempty"`
}

// CNIConfiguration is where CNI's programs, configuration and state are.
type CNIConfiguration struct {
	BinDirs  []string `json:"binDirs,omitempty"`
	ConfDir  string   `json:"confDir,omitempty"`
	CacheDir string   `json:"cacheDir,omitempty"`
}

// PathsConfiguration are the folders and files of one agent.
type PathsConfiguration struct {
	Kubeconfig          string `json:"kubeconfig,omitempty"`
	BootstrapKubeconfig string `json:"bootstrapKubeconfig,omitempty"`
	RootDir             string `json:"rootDir,omitempty"`
	RunDir              string `json:"runDir,omitempty"`
	CertDir             string `json:"certDir,omitempty"`
	ClusterCA           string `json:"clusterCA,omitempty"`
	ContainerLogsDir    string `json:"containerLogsDir,omitempty"`
	Pump                string `json:"pump,omitempty"`
	StatusSocket        string `json:"statusSocket,omitempty"`
}

// Switch is on, off or unset, which means on.
type Switch string

// UnmarshalJSON accepts on, off, true, false, and YAML's booleans.
func (s *Switch) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v {
	case true, "on", "true":
		*s = "on"
	case false, "off", "false":
		*s = "off"
	default:
		return &json.UnmarshalTypeError{Value: string(b), Type: reflect.TypeFor[Switch]()}
	}
	return nil
}

// On reports whether the half runs.
func (s Switch) On() bool { return s != "off" }
