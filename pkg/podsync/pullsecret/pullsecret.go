// Package pullsecret is PURE: the credentials in imagePullSecrets, and which of them apply to an
// image, by the rules of https://kubernetes.io/docs/concepts/containers/images/#config-json.
package pullsecret

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Entry is one login to a registry, or to some of its repositories.
type Entry struct {
	// Host may have a port, and "*" for one part of the name: "*.example.com:5000". Path is a
	// prefix of repositories; "" matches all.
	Host, Path  string
	Credentials runtime.Credentials
}

// login is one entry of the file that `docker login` writes.
type login struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Parse reads a secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
func Parse(s *corev1.Secret) ([]Entry, error) {
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		return parseConfig(s.Data[corev1.DockerConfigJsonKey])
	case corev1.SecretTypeDockercfg:
		return parseLogins(s.Data[corev1.DockerConfigKey])
	}
	return nil, fmt.Errorf("reading the pull secret %s/%s: its type is %q; it must be %s or %s",
		s.Namespace, s.Name, s.Type, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg)
}

func parseConfig(text []byte) ([]Entry, error) {
	var config struct {
		Auths json.RawMessage `json:"auths"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, hideContents(err)
	}
	if len(config.Auths) == 0 {
		return nil, nil
	}
	return parseLogins(config.Auths)
}

func parseLogins(text []byte) ([]Entry, error) {
	var logins map[string]login
	if err := json.Unmarshal(text, &logins); err != nil {
		return nil, hideContents(err)
	}
	var entries []Entry
	for server, l := range logins {
		entry := Entry{Credentials: runtime.Credentials{
			Username: l.Username, Password: l.Password, IdentityToken: l.IdentityToken, RegistryToken: l.RegistryToken, Server: server,
		}}
		if l.Auth != "" {
			name, password, err := decodeAuth(l.Auth)
			if err != nil {
				return nil, err
			}
			entry.Credentials.Username, entry.Credentials.Password = name, password
		}
		entry.Host, entry.Path = location(server)
		if entry.Host != "" {
			entries = append(entries, entry)
		}
	}
	// The most specific first: longer paths before shorter, then by server for a stable order.
	slices.SortFunc(entries, func(a, b Entry) int {
		if d := len(b.Path) - len(a.Path); d != 0 {
			return d
		}
		return strings.Compare(b.Credentials.Server, a.Credentials.Server)
	})
	return entries, nil
}

// hideContents is an error of reading a secret that quotes nothing of its contents.
func hideContents(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("reading the pull secret: it is not JSON at byte %d", syntax.Offset)
	}
	return errors.New("reading the pull secret: its JSON is not a Docker config")
}

func decodeAuth(auth string) (name, password string, err error) {
	text, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		text, err = base64.RawStdEncoding.DecodeString(auth)
	}
	if err != nil {
		return "", "", errors.New("reading the pull secret: auth is not base64")
	}
	name, password, found := strings.Cut(string(text), ":")
	if !found {
		return "", "", errors.New("reading the pull secret: auth is not username:password")
	}
	return name, strings.TrimRight(password, "\x00"), nil
}

// location splits the name of a server, such as "https://index.docker.io/v1/" or
// "registry.example.com:5000/team".
func location(server string) (host, dir string) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", ""
	}
	dir = strings.Trim(u.EscapedPath(), "/")
	for _, version := range []string{"v1", "v2"} {
		if dir == version {
			dir = ""
		}
		dir = strings.TrimPrefix(dir, version+"/")
	}
	return runtime.RegistryHost(u.Host), dir
}

// For returns the credentials of the entries that match a repository such as
// "docker.io/library/nginx", without duplicates. Their Server is the repository's registry, since
// an entry's pattern ("*.example.com") does not name a host.
func For(entries []Entry, repository string) []runtime.Credentials {
	host, repo, _ := strings.Cut(repository, "/")
	host = runtime.RegistryHost(host)
	var found []runtime.Credentials
	for _, e := range entries {
		if !matchHost(e.Host, host) || !matchPath(e.Path, repo) {
			continue
		}
		c := e.Credentials
		c.Server = host
		if !slices.Contains(found, c) {
			found = append(found, c)
		}
	}
	return found
}

// matchHost compares names part by part, so that "*" matches one part only, and ports exactly.
func matchHost(pattern, host string) bool {
	pattern, patternPort := cutPort(pattern)
	host, port := cutPort(host)
	want, have := strings.Split(pattern, "."), strings.Split(host, ".")
	if patternPort != port || len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func cutPort(host string) (name, port string) {
	if i := strings.LastIndex(host, ":"); i >= 0 && !strings.HasSuffix(host, "]") {
		return host[:i], host[i+1:]
	}
	return host, ""
}

// matchPath reports whether a repository equals the prefix or lies below it.
func matchPath(prefix, repo string) bool {
	return prefix == "" || repo == prefix || strings.HasPrefix(repo, prefix+"/")
}
