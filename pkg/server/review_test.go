package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
)

// slowReviews refuse every token, each after a second.
type slowReviews struct {
	authenticationclient.TokenReviewInterface
	under, most, asked *atomic.Int64
}

func (s slowReviews) Create(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	s.asked.Add(1)
	if n := s.under.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	defer s.under.Add(-1)
	time.Sleep(time.Second)
	return r, nil
}

// TestAFloodOfTokensIsBounded sends what anyone who reaches the port can send.
func TestAFloodOfTokensIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under, most, asked atomic.Int64
		auth := NewAuth(AuthConfig{Tokens: slowReviews{nil, &under, &most, &asked}, TokenTTL: time.Minute, Now: time.Now})
		var log bytes.Buffer
		s := &Server{config: Config{Auth: auth, Access: AllowAll{}, Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))}}
		h := s.guard(http.NotFoundHandler())
		var codes sync.Map
		var all sync.WaitGroup
		began := time.Now()
		for i := range 2000 {
			all.Go(func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request(nil, fmt.Sprint("token-", i)))
				n, _ := codes.LoadOrStore(w.Code, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			})
		}
		all.Wait()
		if took := time.Since(began); took > reviewTime+time.Second {
			t.Errorf("the flood held requests for %s", took)
		}
		if most.Load() > reviewSlots {
			t.Errorf("%d reviews at a time, want %d", most.Load(), reviewSlots)
		}
		if asked.Load() > maxWaiting {
			t.Errorf("the API server was asked %d times", asked.Load())
		}
		busy, _ := codes.Load(http.StatusTooManyRequests)
		if busy == nil || busy.(*atomic.Int64).Load() < 2000-maxWaiting {
			t.Errorf("too few requests were turned away")
		}
		if n := strings.Count(log.String(), "\n"); n > 3 {
			t.Errorf("%d lines were logged of refusals", n)
		}
	})
}

func TestOneTokenIsReviewedOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under, most, asked atomic.Int64
		// no cache
		auth := NewAuth(AuthConfig{Tokens: slowReviews{nil, &under, &most, &asked}, Now: time.Now})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if _, err := auth.Authenticate(request(nil, "same")); !errors.Is(err, ErrUnauthenticated) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if asked.Load() != 1 {
			t.Errorf("one token was reviewed %d times", asked.Load())
		}
	})
}

func TestMadeUpTokensDoNotDriveGoodOnesOut(t *testing.T) {
	asked := 0
	a := NewAuth(AuthConfig{Tokens: apiServer("", &asked).AuthenticationV1().TokenReviews(), TokenTTL: time.Minute, Now: time.Now})
	if _, err := a.Authenticate(request(nil, "good")); err != nil {
		t.Fatal(err)
	}
	for i := range cacheSize + 100 {
		a.refused.put(fmt.Sprint(i), tokenAnswer{}, time.Minute)
	}
	if _, err := a.Authenticate(request(nil, "good")); err != nil || asked != 1 {
		t.Errorf("after a flood: asked %d times, %v", asked, err)
	}
	if n := len(a.refused.all); n > cacheSize {
		t.Errorf("%d answers are kept", n)
	}
}

func TestLogsFollowNoLinkOutOfTheFolder(t *testing.T) {
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	for path, text := range map[string]string{secret: "secret", filepath.Join(dir, "syslog"): "fine"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"out": secret, "up": "../" + filepath.Base(filepath.Dir(secret)) + "/shadow", "in": "syslog"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{config: Config{Auth: anyone{}, Access: AllowAll{}, LogDir: dir, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
	for path, want := range map[string]string{"syslog": "fine", "in": "fine", "out": "", "up": "", "": "syslog"} {
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest("GET", "https://node/logs/"+path, nil))
		if text := w.Body.String(); strings.Contains(text, "secret") || want == "" && w.Code == 200 || !strings.Contains(text, want) {
			t.Errorf("%q: %d %q, want %q", path, w.Code, text, want)
		}
	}
}

type anyone struct{}

func (anyone) Authenticate(*http.Request) (User, error) { return User{Name: "x"}, nil }

func TestHealthPages(t *testing.T) {
	var sick error
	m := http.NewServeMux()
	handleHealth(m, func() error { return sick })
	for _, c := range []struct {
		path string
		sick error
		code int
		body string
	}{
		{"/healthz", nil, 200, "ok"},
		{"/healthz?verbose", nil, 200, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"},
		{"/healthz/ping", nil, 200, "ok"},
		{"/healthz/log", nil, 200, "ok"},
		{"/healthz/syncloop", nil, 200, "ok"},
		{"/healthz/other", nil, 404, "404 page not found\n"},
		{"/healthz", errors.New("silent"), 500, "[+]ping ok\n[+]log ok\n[-]syncloop failed: silent\nhealthz check failed\n"},
		{"/healthz/ping", errors.New("silent"), 200, "ok"},
		{"/healthz/syncloop", errors.New("silent"), 500, "internal server error: silent\n"},
		{"/healthz?verbose&exclude=syncloop", errors.New("silent"), 200, "[+]ping ok\n[+]log ok\n[+]syncloop excluded: ok\nhealthz check passed\n"},
		{"/livez", nil, 404, "404 page not found\n"},
	} {
		sick = c.sick
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s (%v): %d %q, want %d %q", c.path, c.sick, w.Code, w.Body, c.code, c.body)
		}
	}
}
