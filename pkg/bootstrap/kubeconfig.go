package bootstrap

import (
	"fmt"
	"net/url"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// renderKubeconfig makes the agent's kubeconfig. It refers to the certificate by file, so that rotation needs no rewrite,
// and holds the CA itself, so that it works when copied.
func renderKubeconfig(server string, ca []byte, nodeName, certFile string) ([]byte, error) {
	const cluster, context = "default-cluster", "default-context"
	user := "system:node:" + nodeName
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: {Server: "https://" + server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificate: certFile, ClientKey: certFile}},
		Contexts:       map[string]*clientcmdapi.Context{context: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: context,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the kubeconfig: %w", err)
	}
	return text, nil
}

// kubeconfigFacts returns the server as host:port and the certificate file of a kubeconfig; empty where it has none.
func kubeconfigFacts(path string) (server, certFile string, err error) {
	data, err := readOptional(path)
	if err != nil || data == nil {
		return "", "", err
	}
	c, err := clientcmd.Load(data)
	if err != nil {
		return "", "", nil // not a kubeconfig: it is written anew
	}
	ctx := c.Contexts[c.CurrentContext]
	if ctx == nil || c.Clusters[ctx.Cluster] == nil || c.AuthInfos[ctx.AuthInfo] == nil {
		return "", "", nil
	}
	u, err := url.Parse(c.Clusters[ctx.Cluster].Server)
	if err != nil {
		return "", "", nil
	}
	return u.Host, c.AuthInfos[ctx.AuthInfo].ClientCertificate, nil
}
