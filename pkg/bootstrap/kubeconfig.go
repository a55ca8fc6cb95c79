package bootstrap

import (
	"bytes"
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

// kubeconfigFacts reads what Plan wants to know of a kubeconfig: the server as host:port, the certificate's file, and
// whether it trusts the CA given. What cannot be read counts as absent: it is written anew.
func kubeconfigFacts(path string, ca []byte) (server, certFile string, trust bool, err error) {
	data, err := readOptional(path)
	if err != nil || data == nil {
		return "", "", false, err
	}
	c, err := clientcmd.Load(data)
	if err != nil {
		return "", "", false, nil //nolint:nilerr // not a kubeconfig
	}
	ctx := c.Contexts[c.CurrentContext]
	if ctx == nil || c.Clusters[ctx.Cluster] == nil || c.AuthInfos[ctx.AuthInfo] == nil {
		return "", "", false, nil
	}
	cluster := c.Clusters[ctx.Cluster]
	u, err := url.Parse(cluster.Server)
	if err != nil {
		return "", "", false, nil //nolint:nilerr // no address
	}
	trusted := cluster.CertificateAuthorityData
	if len(trusted) == 0 && cluster.CertificateAuthority != "" {
		if trusted, err = readOptional(cluster.CertificateAuthority); err != nil {
			return "", "", false, err
		}
	}
	same := len(ca) > 0 && bytes.Equal(bytes.TrimSpace(trusted), bytes.TrimSpace(ca))
	return u.Host, c.AuthInfos[ctx.AuthInfo].ClientCertificate, same, nil
}
