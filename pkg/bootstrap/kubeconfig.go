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
// API, host:port: {"servers": ["10.0.0.2:6443"]}. Other programs use the first address, as if it
// were not there.
const moreServers = "nodeagent.dev/more-servers"

// serverList is the extension's content.
type serverList struct {
	Servers []string `json:"servers"`
}

// renderKubeconfig makes the agent's kubeconfig for the API servers given, the one to ask first at
// the head. It refers to the certificate by file, so that rotation needs no rewrite, and holds the
// CA itself, so that it works when copied.
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

// kubeconfig is what the agent wants to know of one.
type kubeconfig struct {
	// host:port, the one to ask first at the head; empty: it names none, or is none
	servers  []string
	certFile string
	ca       []byte // PEM; empty: in caFile
	caFile   string
}

// parseKubeconfig reads the current context. Text that cannot be read counts as absent: it is
// written anew.
func parseKubeconfig(data []byte) kubeconfig {
	c, err := clientcmd.Load(data)
	if err != nil {
		return kubeconfig{}
	}
	return currentContext(c)
}

// currentContext is what the current context leads to; empty if that is not all there.
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

// furtherServers reads the extension; what is not an address in it is left out.
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

// readKubeconfig reads a file; one that is not there counts as empty. trust: it trusts the very CA
// given.
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
