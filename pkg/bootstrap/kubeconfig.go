package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// moreServers names the extension of a kubeconfig's cluster that lists further addresses of its
// API, host:port: {"servers": ["10.0.0.2:6443"]}. Other programs ignore it and use the first
// address.
const moreServers = "nodeagent.dev/more-servers"

// serverList is the extension's content.
type serverList struct {
	Servers []string `json:"servers"`
}

// renderKubeconfig makes the agent's kubeconfig for these API servers, the preferred one first. It
// refers to the certificate by file, so that a rotation need not rewrite it, and holds the CA
// itself, so that it works when copied.
func renderKubeconfig(servers []string, ca []byte, nodeName, certFile string) ([]byte, error) {
	const name, context = "default-cluster", "default-context"
	user := "system:node:" + nodeName
	cluster := &clientcmdapi.Cluster{Server: "https://" + servers[0], CertificateAuthorityData: ca}
	if len(servers) > 1 {
		raw, err := json.Marshal(serverList{servers[1:]})
		if err != nil {
			return nil, fmt.Errorf("encoding the kubeconfig: %w", err)
		}
		cluster.Extensions = map[string]runtime.Object{moreServers: &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}}
	}
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificate: certFile, ClientKey: certFile}},
		Contexts:       map[string]*clientcmdapi.Context{context: {Cluster: name, AuthInfo: user}},
		CurrentContext: context,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the kubeconfig: %w", err)
	}
	return text, nil
}

// kubeconfig is what the agent needs from a kubeconfig.
type kubeconfig struct {
	// host:port, the preferred one first; empty: none, or no kubeconfig
	servers  []string
	certFile string
	ca       []byte // PEM; empty: in caFile
	caFile   string
}

// parseKubeconfig reads the current context. It takes a text that it cannot read for an empty one:
// join writes the file again.
func parseKubeconfig(data []byte) kubeconfig {
	c, err := clientcmd.Load(data)
	if err != nil {
		return kubeconfig{}
	}
	return currentContext(c)
}

// currentContext is cluster and user of the current context; empty if one of them is missing.
func currentContext(c *clientcmdapi.Config) kubeconfig {
	ctx := c.Contexts[c.CurrentContext]
	if ctx == nil || c.Clusters[ctx.Cluster] == nil || c.AuthInfos[ctx.AuthInfo] == nil {
		return kubeconfig{}
	}
	cluster := c.Clusters[ctx.Cluster]
	u, err := url.Parse(cluster.Server)
	if err != nil || u.Host == "" {
		return kubeconfig{}
	}
	return kubeconfig{
		servers: append([]string{u.Host}, furtherServers(cluster)...), certFile: c.AuthInfos[ctx.AuthInfo].ClientCertificate,
		ca: cluster.CertificateAuthorityData, caFile: cluster.CertificateAuthority,
	}
}

// furtherServers reads the extension, without entries that are no addresses.
func furtherServers(c *clientcmdapi.Cluster) []string {
	unknown, ok := c.Extensions[moreServers].(*runtime.Unknown)
	if !ok {
		return nil
	}
	var l serverList
	if json.Unmarshal(unknown.Raw, &l) != nil {
		return nil
	}
	var good []string
	for _, s := range l.Servers {
		if hostPort, err := withPort(s); err == nil {
			good = append(good, hostPort)
		}
	}
	return good
}

// readKubeconfig reads a file; a missing one counts as empty. trust reports whether it trusts
// exactly this CA.
func readKubeconfig(path string, ca []byte) (k kubeconfig, trust bool, err error) {
	data, err := readOptional(path)
	if err != nil || data == nil {
		return kubeconfig{}, false, err
	}
	k = parseKubeconfig(data)
	if len(k.ca) == 0 && k.caFile != "" {
		if k.ca, err = readOptional(k.caFile); err != nil {
			return kubeconfig{}, false, err
		}
	}
	return k, len(ca) > 0 && bytes.Equal(bytes.TrimSpace(k.ca), bytes.TrimSpace(ca)), nil
}
