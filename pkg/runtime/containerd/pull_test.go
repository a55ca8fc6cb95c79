package containerd

import (
	"testing"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/pullsecret"
)

// TestCredentialsReachTheRegistry: the credentials of an image go to its registry and to no other
// host.
func TestCredentialsReachTheRegistry(t *testing.T) {
	for _, c := range []struct{ server, image, host, user string }{
		{"*.example.com", "team.example.com/app:1", "team.example.com", "u"},
		{"*.example.com:5000", "team.example.com:5000/app:1", "team.example.com:5000", "u"},
		{"*.example.com", "team.example.com/app:1", "mirror.test", ""},
		{"*.example.com", "team.example.com/app:1", "other.example.com", ""},
		{"https://team.example.com/v2/", "team.example.com/app:1", "team.example.com", "u"},
		{"https://index.docker.io/v1/", "nginx", "registry-1.docker.io", "u"},
		{"registry.hub.docker.com", "team/app", "registry-1.docker.io", "u"},
	} {
		entries, err := pullsecret.Parse(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + c.server + `":{"username":"u","password":"p"}}}`),
		}})
		if err != nil {
			t.Fatal(err)
		}
		named, err := reference.ParseNormalizedNamed(c.image)
		if err != nil {
			t.Fatal(err)
		}
		found := pullsecret.For(entries, named.Name())
		if len(found) != 1 {
			t.Errorf("server %s, image %s: %d logins found, want 1", c.server, c.image, len(found))
			continue
		}
		if user, _, err := credentialsFor(c.host, named, found[0]); err != nil || user != c.user {
			t.Errorf("server %s, image %s: host %s gets user %q, want %q (%v)", c.server, c.image, c.host, user, c.user, err)
		}
	}
}
