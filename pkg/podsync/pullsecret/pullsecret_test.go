package pullsecret_test

import (
	"encoding/base64"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/pullsecret"
)

func secret(text string) *corev1.Secret {
	return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text)}}
}

// config has one login for each server, whose user has the server's name.
func config(servers ...string) string {
	var parts []string
	for _, s := range servers {
		parts = append(parts, `"`+s+`": {"auth": "`+base64.StdEncoding.EncodeToString([]byte(s+":pw:with:colons"))+`"}`)
	}
	return `{"auths": {` + strings.Join(parts, ", ") + `}}`
}

func TestFor(t *testing.T) {
	for _, c := range []struct {
		server, image string
		match         bool
	}{
		{"registry.example.com", "registry.example.com/a/b", true},
		{"registry.example.com", "other.example.com/a/b", false},
		{"registry.example.com:5000", "registry.example.com:5000/a", true},
		{"registry.example.com:5000", "registry.example.com/a", false},
		{"registry.example.com", "registry.example.com:5000/a", false},
		{"*.example.com", "registry.example.com/a", true},
		{"*.example.com", "a.b.example.com/a", false},
		{"*.example.com", "example.com/a", false},
		{"reg*.example.com", "registry.example.com/a", true},
		{"https://index.docker.io/v1/", "docker.io/library/nginx", true},
		{"docker.io", "docker.io/team/app", true},
		{"index.docker.io/v1/team", "docker.io/team/app", true},
		{"registry.example.com/team", "registry.example.com/team/app", true},
		{"registry.example.com/team", "registry.example.com/team", true},
		{"registry.example.com/team", "registry.example.com/teammate/app", false},
		{"http://registry.example.com/v2/team/", "registry.example.com/team/app", true},
	} {
		entries, err := pullsecret.Parse(secret(config(c.server)))
		if err != nil {
			t.Errorf("%s: %v", c.server, err)
			continue
		}
		found := pullsecret.For(entries, c.image)
		if (len(found) == 1) != c.match {
			t.Errorf("server %s for image %s: %d credentials, want match %v", c.server, c.image, len(found), c.match)
		}
		// The credentials are sent to a host, never to a pattern or a URL.
		if host, _, _ := strings.Cut(c.image, "/"); len(found) == 1 && found[0].Server != host {
			t.Errorf("server %s for image %s: the credentials are for %q", c.server, c.image, found[0].Server)
		}
	}
}

func TestMostExactFirstAndPasswordsWhole(t *testing.T) {
	entries, err := pullsecret.Parse(secret(`{"auths": {"r.io": {"username": "all", "password": "1"}, "r.io/team": {"auth": "dGVhbTphOmI="}}}`))
	if err != nil {
		t.Fatal(err)
	}
	found := pullsecret.For(entries, "r.io/team/app")
	if len(found) != 2 || found[0].Username != "team" || found[0].Password != "a:b" || found[1].Username != "all" {
		t.Errorf("found %+v", found)
	}
}

func TestOldFormatAndErrors(t *testing.T) {
	old := &corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"r.io": {"username": "u", "password": "p"}}`)}}
	if entries, err := pullsecret.Parse(old); err != nil || len(entries) != 1 {
		t.Errorf("old format: %v %v", entries, err)
	}
	for _, text := range []string{`{"auths": {"r.io": {"auth": "c2VjcmV0"}}}`, `{"auths": {"r.io": {"auth": "%%secret"}}}`, `{"auths": "topsecret"}`, `{"secret`} {
		_, err := pullsecret.Parse(secret(text))
		if err == nil || strings.Contains(err.Error(), "ecret\"") || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: error %v", text, err)
		}
	}
	if _, err := pullsecret.Parse(&corev1.Secret{Type: corev1.SecretTypeOpaque}); err == nil {
		t.Error("an opaque secret was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(config("https://index.docker.io/v1/", "*.example.com:5000/a"), "docker.io/a/b")
	f.Add(`{"auths": {"[::1]:5000": {"username": "u"}}}`, "[::1]:5000/a")
	f.Add(`{"auths": {"a.[": {"username": "u"}}}`, "a.b/c")
	f.Fuzz(func(t *testing.T, text, image string) {
		entries, err := pullsecret.Parse(secret(text))
		if err != nil && len(entries) > 0 {
			t.Error("entries and an error")
		}
		for _, c := range pullsecret.For(entries, image) {
			if c.Server == "" && !strings.Contains(text, `""`) && !strings.Contains(text, `\u`) {
				t.Errorf("credentials without a server from %q", text)
			}
		}
	})
}
