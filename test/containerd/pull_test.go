package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// registry starts a real registry that holds the test image, behind a front that requires user u
// and password p if locked and counts the manifests that are fetched.
func registry(t *testing.T, locked *atomic.Bool) (address string, manifests *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(back)
	server := exec.Command("registry", "-port", port)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for began := time.Now(); time.Since(began) < patience; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", back); err == nil {
			c.Close()
			break
		}
	}
	push(t, "http://"+back+"/v2/team/app")
	manifests = &atomic.Int64{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: back})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); locked.Load() && (user != "u" || password != "p") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		// This registry understands no open ranges, which containerd asks for where it goes on with
		// a blob. Without one it sends the whole blob, as HTTP allows.
		r.Header.Del("Range")
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet {
			manifests.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://"), manifests
}

// push uploads the test image's blobs, and its manifest as 1.
func push(t *testing.T, repo string) {
	t.Helper()
	files := map[string][]byte{}
	var index struct {
		Manifests []struct{ Digest, MediaType string }
	}
	for r := tar.NewReader(bytes.NewReader(imageTar())); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(err)
		files[h.Name], err = io.ReadAll(r)
		must(err)
	}
	must(decode(files["index.json"], &index))
	send := func(method, to, mediaType string, b []byte) {
		req, err := http.NewRequest(method, to, bytes.NewReader(b))
		must(err)
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		must(err)
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, to, resp.Status)
		}
	}
	for name, b := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			send("POST", repo+"/blobs/uploads/?digest=sha256:"+sum, "application/octet-stream", b)
		}
	}
	m := index.Manifests[0]
	send("PUT", repo+"/manifests/1", m.MediaType, files["blobs/sha256/"+strings.TrimPrefix(m.Digest, "sha256:")])
}

func TestPull(t *testing.T) {
	h := newHost(t)
	h.start()
	var locked atomic.Bool
	address, manifests := registry(t, &locked)
	preloaded, err := h.agent.Image(t.Context(), testImage)
	if err != nil {
		t.Fatal(err)
	}
	ref := address + "/team/app:1"
	locked.Store(true)
	good := runtime.Credentials{Username: "u", Password: "p"}
	for _, c := range []struct {
		what string
		auth []runtime.Credentials
		ok   bool
	}{
		{"no credentials", nil, false},
		{"wrong ones", []runtime.Credentials{{Username: "u", Password: "x"}}, false},
		{"those of another registry", []runtime.Credentials{{Username: "u", Password: "p", Server: "example.com"}}, false},
		{"the second of two", []runtime.Credentials{{Username: "x", Password: "y"}, good}, true},
	} {
		img, err := h.agent.Pull(t.Context(), ref, c.auth)
		if (err == nil) != c.ok {
			t.Errorf("with %s: %v", c.what, err)
		}
		if c.ok && (img.ID != preloaded.ID || len(img.Tags) != 2) {
			t.Errorf("got %+v, want one more name of %s", img, preloaded.ID)
		}
	}
	locked.Store(false)
	if _, err := h.agent.Pull(t.Context(), address+"/team/none:1", nil); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("an image that is not there: %v", err)
	}
	// Names of the registry's own, then a mirror for a registry that does not exist.
	h.write("certs.d/mirrored.test/hosts.toml", "server = \"http://mirrored.test\"\n[host.\"http://"+address+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
	if img, err := h.agent.Pull(t.Context(), "mirrored.test/team/app:1", []runtime.Credentials{good}); err != nil || img.ID != preloaded.ID {
		t.Errorf("through a mirror: %v", err)
	}
	if err := h.agent.RemoveImage(t.Context(), preloaded.ID); err != nil {
		t.Fatal(err)
	}
	manifests.Store(0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := h.agent.Pull(t.Context(), ref, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := manifests.Load(); n > 1 {
		t.Errorf("%d fetches of one manifest, want 1", n)
	}
	img, err := h.agent.Image(t.Context(), strings.Replace(ref, ":1", "@"+strings.SplitN(preloaded.Digests[0], "@", 2)[1], 1))
	if err != nil || img.ID != preloaded.ID {
		t.Errorf("by digest: %+v, %v", img, err)
	}
	pod := podRef(1)
	config := runtime.ContainerConfig{Pod: pod, Name: "c", Image: img, ImageRef: ref, LogPath: h.path("logs/x/0.log")}
	s := h.sandbox(runtime.SandboxConfig{Pod: pod, Hostname: "h"})
	config.SandboxID, config.Spec = s.ID, h.spec(s, "sleep", "1000")
	h.run(config)
}

// TestAStalledPullIsCancelled: a pull is cancelled if its registry accepts a request and then sends
// nothing, at any step; a registry that is only slow is waited for.
func TestAStalledPullIsCancelled(t *testing.T) {
	h := newHost(t)
	h.progress = 2 * time.Second
	h.start()
	good, _ := registry(t, &atomic.Bool{})
	for _, c := range []struct {
		name, path string // of requests that stall
		bytes      int64  // of the answer that come first
		slow       time.Duration
		want       string
	}{
		{name: "manifest", path: "/v2/", want: "sent nothing for 2s"},
		{name: "blob", path: "/blobs/", want: "sent nothing for 2s"},
		{name: "half a blob", path: "/blobs/", bytes: 100, want: "sent nothing for 2s"},
		{name: "only slow", path: "/blobs/", slow: 500 * time.Millisecond},
	} {
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: good})
		over := make(chan struct{})
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, c.path) {
				proxy.ServeHTTP(w, r)
				return
			}
			proxy := *proxy
			proxy.ModifyResponse = func(resp *http.Response) error {
				if c.slow == 0 {
					resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(resp.Body, c.bytes), stall{over, r.Context()}))
				}
				return nil
			}
			if c.bytes == 0 {
				wait := over
				if c.slow > 0 {
					wait = make(chan struct{})
					time.AfterFunc(c.slow, func() { close(wait) })
				}
				select {
				case <-wait:
				case <-r.Context().Done():
				}
			}
			proxy.FlushInterval = -1
			proxy.ServeHTTP(w, r)
		}))
		address := strings.TrimPrefix(front.URL, "http://")
		// so that everything is fetched again
		if have, err := h.agent.Image(t.Context(), testImage); err == nil {
			must(h.agent.RemoveImage(t.Context(), have.ID))
		}
		began := time.Now()
		_, err := h.agent.Pull(t.Context(), address+"/team/app:1", nil)
		took := time.Since(began)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: after %s: %v", c.name, took, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), address+" "+c.want)):
			t.Errorf("%s: after %s: %v", c.name, took, err)
		}
		if took > patience {
			t.Errorf("%s: took %s", c.name, took)
		}
		close(over)
		front.Close()
	}
}

// stall is a response body that blocks.
type stall struct {
	over <-chan struct{}
	ctx  context.Context
}

func (s stall) Read([]byte) (int, error) {
	select {
	case <-s.over:
	case <-s.ctx.Done():
	}
	return 0, io.ErrUnexpectedEOF
}

// TestImageIDIsWhereTheImageCameFrom, as a pod's status tells it: the pod's own repository, or the
// image's id when it was imported.
func TestImageIDIsWhereTheImageCameFrom(t *testing.T) {
	h := newHost(t)
	h.start()
	imported, err := h.agent.Image(t.Context(), testImage)
	must(err)
	ref := podRef(1)
	s := h.sandbox(runtime.SandboxConfig{Pod: ref, Hostname: "h"})
	if c := h.run(h.config(ref, s, "imported", "sleep", "1000")); c.ImageDigest != imported.ID {
		t.Errorf("an imported image is called %q, want its id %q", c.ImageDigest, imported.ID)
	}
	address, _ := registry(t, &atomic.Bool{})
	pulled, err := h.agent.Pull(t.Context(), address+"/team/app:1", nil)
	must(err)
	_, digest, _ := strings.Cut(imported.Digests[0], "@")
	for name, as := range map[string]string{
		"by-tag": address + "/team/app:1", "by-digest": address + "/team/app@" + digest, "by-other-name": testImage,
	} {
		config := h.config(ref, s, name, "sleep", "1000")
		config.Image, config.ImageRef = pulled, as
		if c := h.run(config); c.ImageDigest != address+"/team/app@"+digest {
			t.Errorf("%s: %q", name, c.ImageDigest)
		}
	}
	h.restart()
	if c := h.get(ref.UID).Latest("by-tag"); c.ImageDigest != address+"/team/app@"+digest {
		t.Errorf("after a restart: %q", c.ImageDigest)
	}
}
