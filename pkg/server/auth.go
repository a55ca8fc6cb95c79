package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
)

// User is the sender of a request.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Authenticator finds out who sent a request. It returns ErrUnauthenticated for a request with no
// or false credentials; any other error means that it could not find out.
type Authenticator interface {
	Authenticate(r *http.Request) (User, error)
}

// ErrUnauthenticated is answered with 401.
var ErrUnauthenticated = errors.New("unauthorized")

// AuthConfig configures an Auth.
type AuthConfig struct {
	// ClientCA verifies client certificates; nil function or pool: none is accepted.
	ClientCA func() *x509.CertPool
	// Tokens reviews bearer tokens; nil: none is accepted.
	Tokens authenticationclient.TokenReviewInterface
	// TokenTTL is how long an answer is cached.
	TokenTTL  time.Duration
	Anonymous bool
	Now       func() time.Time
}

// Auth authenticates by client certificate, else by bearer token, else as anonymous if that is
// allowed.
type Auth struct {
	config AuthConfig
	// tokens holds accepted tokens, refused the others: made-up tokens must not evict valid ones.
	tokens, refused *cache[tokenAnswer]
	reviews         *reviews
}

// tokenAnswer is the API server's review of a token.
type tokenAnswer struct {
	user User
	ok   bool
}

// NewAuth makes an Auth that asks nobody yet.
func NewAuth(c AuthConfig) *Auth {
	return &Auth{config: c, tokens: newCache[tokenAnswer](c.Now), refused: newCache[tokenAnswer](c.Now), reviews: newReviews()}
}

// Authenticate implements Authenticator. A request with false credentials is refused, never taken
// for an anonymous one.
func (a *Auth) Authenticate(r *http.Request) (User, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := a.certificate(r.TLS.PeerCertificates)
		if err == nil {
			return user, nil
		}
		if bearer(r) == "" {
			return User{}, err
		}
	}
	if token := bearer(r); token != "" {
		return a.token(r.Context(), token)
	}
	if a.config.Anonymous {
		return User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, nil
	}
	return User{}, ErrUnauthenticated
}

// certificate verifies the chain for client use: common name and organizations are user and groups
// (RFC 5280 names, as every Kubernetes component reads them).
func (a *Auth) certificate(chain []*x509.Certificate) (User, error) {
	var pool *x509.CertPool
	if a.config.ClientCA != nil {
		pool = a.config.ClientCA()
	}
	if pool == nil {
		return User{}, fmt.Errorf("%w: client certificates are not accepted: authentication.x509.clientCAFile is not set", ErrUnauthenticated)
	}
	o := x509.VerifyOptions{
		Roots: pool, CurrentTime: a.config.Now(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return User{}, fmt.Errorf("%w: verifying the client certificate: %w", ErrUnauthenticated, err)
	}
	name := chain[0].Subject.CommonName
	if name == "" {
		return User{}, fmt.Errorf("%w: the client certificate has no common name", ErrUnauthenticated)
	}
	return User{Name: name, Groups: append(append([]string(nil), chain[0].Subject.Organization...), "system:authenticated")}, nil
}

// token asks the API server about a token that is not cached. The cache holds only hashes of
// tokens.
func (a *Auth) token(ctx context.Context, token string) (User, error) {
	if a.config.Tokens == nil {
		return User{}, fmt.Errorf("%w: bearer tokens are not accepted: authentication.webhook.enabled is false", ErrUnauthenticated)
	}
	sum := sha256.Sum256([]byte(token))
	key := string(sum[:])
	answer, ok := a.tokens.get(key)
	if !ok {
		answer, ok = a.refused.get(key)
	}
	if !ok {
		var err error
		answer, err = ask(ctx, a.reviews, key, func(ctx context.Context) (tokenAnswer, error) { return a.review(ctx, key, token) })
		if err != nil {
			return User{}, fmt.Errorf("reviewing a bearer token: %w", err)
		}
	}
	if !answer.ok {
		return User{}, ErrUnauthenticated
	}
	return answer.user, nil
}

func (a *Auth) review(ctx context.Context, key, token string) (tokenAnswer, error) {
	review, err := a.config.Tokens.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return tokenAnswer{}, err //nolint:wrapcheck // the caller says what was asked
	}
	answer := tokenAnswer{ok: review.Status.Authenticated, user: reviewed(review.Status.User)}
	if answer.ok {
		a.tokens.put(key, answer, a.config.TokenTTL)
	} else {
		a.refused.put(key, answer, a.config.TokenTTL)
	}
	return answer, nil
}

func reviewed(u authenticationv1.UserInfo) User {
	extra := make(map[string][]string, len(u.Extra))
	for k, v := range u.Extra {
		extra[k] = v
	}
	return User{Name: u.Username, UID: u.UID, Groups: u.Groups, Extra: extra}
}

// bearer is the request's bearer token (RFC 6750), "" if it has none.
func bearer(r *http.Request) string {
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
