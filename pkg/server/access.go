package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
)

// Attributes say what a request does to the Node object, in the words of the API server's
// authorization.
type Attributes struct {
	Verb        string // get, create, update, patch, delete
	Subresource string // of nodes: proxy, log, metrics, stats, healthz, pods, configz
}

// Authorizer says whether a user may make a request and, if not, why.
type Authorizer interface {
	Authorize(ctx context.Context, u User, a Attributes) (allowed bool, reason string, err error)
}

// AccessConfig configures an Access.
type AccessConfig struct {
	Node    string
	Reviews authorizationclient.SubjectAccessReviewInterface
	// AllowTTL and DenyTTL are how long an answer is cached.
	AllowTTL, DenyTTL time.Duration
	Now               func() time.Time
}

// Access authorizes by SubjectAccessReview.
type Access struct {
	config  AccessConfig
	answers *cache[accessAnswer]
	reviews *reviews
}

type accessAnswer struct {
	allowed bool
	reason  string
}

// AllowAll authorizes everyone who is authenticated (authorization.mode AlwaysAllow).
type AllowAll struct{}

// Authorize implements Authorizer.
func (AllowAll) Authorize(context.Context, User, Attributes) (bool, string, error) {
	return true, "", nil
}

// NewAccess makes an Access that asks nobody yet.
func NewAccess(c AccessConfig) *Access {
	return &Access{config: c, answers: newCache[accessAnswer](c.Now), reviews: newReviews()}
}

// Authorize implements Authorizer.
func (a *Access) Authorize(ctx context.Context, u User, at Attributes) (bool, string, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: u.Name, UID: u.UID, Groups: u.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: at.Verb, Version: "v1", Resource: "nodes", Subresource: at.Subresource, Name: a.config.Node,
		},
	}
	for k, v := range u.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[k] = v
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return false, "", fmt.Errorf("encoding an access review: %w", err)
	}
	key := string(b)
	if answer, ok := a.answers.get(key); ok {
		return answer.allowed, answer.reason, nil
	}
	answer, err := ask(ctx, a.reviews, key, func(ctx context.Context) (accessAnswer, error) { return a.review(ctx, key, spec) })
	if err != nil {
		return false, "", fmt.Errorf("reviewing the access of %q: %w", u.Name, err)
	}
	return answer.allowed, answer.reason, nil
}

func (a *Access) review(ctx context.Context, key string, spec authorizationv1.SubjectAccessReviewSpec) (accessAnswer, error) {
	review, err := a.config.Reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return accessAnswer{}, err //nolint:wrapcheck // the caller says what was asked
	}
	answer := accessAnswer{review.Status.Allowed && !review.Status.Denied, review.Status.Reason}
	ttl := a.config.DenyTTL
	if answer.allowed {
		ttl = a.config.AllowTTL
	}
	a.answers.put(key, answer, ttl)
	return answer, nil
}

// enters reports whether a path runs or changes something in a pod, whatever the method: a
// WebSocket starts with GET, and whoever may read a node's state must not be able to run commands
// in its pods.
func enters(path string) bool {
	root, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return root == "exec" || root == "attach" || root == "portForward" || root == "run"
}

// attributes returns those that allow the request, the finest first (KubeletFineGrainedAuthz,
// KEP-2862): one allowed is enough.
func attributes(r *http.Request) []Attributes {
	verb := map[string]string{
		http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create", http.MethodPut: "update",
		http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[r.Method]
	if enters(r.URL.Path) {
		return []Attributes{{"create", "proxy"}}
	}
	for _, rule := range []struct {
		path string
		sub  string
		fine bool // falls back to nodes/proxy
	}{
		{"/stats", "stats", false},
		{"/metrics", "metrics", false},
		{"/logs", "log", false},
		{"/checkpoint", "checkpoint", false},
		{"/healthz", "healthz", true},
		{"/pods", "pods", true},
		{"/runningpods", "pods", true},
		{"/configz", "configz", true},
	} {
		if r.URL.Path != rule.path && !strings.HasPrefix(r.URL.Path, rule.path+"/") {
			continue
		}
		if rule.fine {
			return []Attributes{{verb, rule.sub}, {verb, "proxy"}}
		}
		return []Attributes{{verb, rule.sub}}
	}
	return []Attributes{{verb, "proxy"}}
}

// guard passes authenticated and authorized requests to next.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.config.Auth.Authenticate(r)
		switch {
		case errors.Is(err, errBusy):
			s.refused.tell(s.config, r, err)
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusTooManyRequests)
			return
		case err != nil:
			s.refused.tell(s.config, r, err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		wanted := attributes(r)
		for _, a := range wanted {
			allowed, _, err := s.config.Access.Authorize(r.Context(), user, a)
			if err != nil {
				msg := fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Name, a.Verb, a.Subresource)
				s.config.Log.Error(msg, "err", err)
				http.Error(w, msg, http.StatusInternalServerError)
				return
			}
			if allowed {
				next.ServeHTTP(w, r)
				return
			}
		}
		subs := make([]string, 0, len(wanted))
		for _, a := range wanted {
			subs = append(subs, a.Subresource)
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, wanted[0].Verb, subs),
			http.StatusForbidden)
	})
}
