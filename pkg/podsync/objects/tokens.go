package objects

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// longest is the time after which a token is renewed even if it lives longer.
const longest = 24 * time.Hour

// tokens caches bound service-account tokens by pod, audience and lifetime.
type tokens struct {
	client kubernetes.Interface
	now    func() time.Time

	mu    sync.Mutex
	byKey map[tokenKey]*token
}

type tokenKey struct {
	pod      types.UID
	account  string
	audience string
	seconds  int64
}

type token struct {
	mu      sync.Mutex // held during a request
	value   string
	renewAt time.Time
	expires time.Time
}

func (t *tokens) get(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (string, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	k := tokenKey{pod.UID, account, audience, seconds}
	t.mu.Lock()
	have := t.byKey[k]
	if have == nil {
		have = &token{}
		t.byKey[k] = have
	}
	t.mu.Unlock()

	have.mu.Lock()
	defer have.mu.Unlock()
	now := t.now()
	if have.value != "" && now.Before(have.renewAt) {
		return have.value, nil
	}
	fresh, err := t.request(ctx, pod, k)
	if err != nil {
		if have.value != "" && now.Before(have.expires) {
			return have.value, nil // it is still valid; the next refresh requests again
		}
		return "", fmt.Errorf("requesting a token of service account %s/%s: %w", pod.Namespace, account, err)
	}
	have.value = fresh.Status.Token
	have.expires, have.renewAt = lifeOf(fresh, now)
	return have.value, nil
}

// lifeOf says when a token that was requested at now expires and when to renew it. It counts the
// lifetime from now, because expirationTimestamp is by the server's clock, and this machine's clock
// may be set.
func lifeOf(granted *authenticationv1.TokenRequest, now time.Time) (expires, renewAt time.Time) {
	life := granted.Status.ExpirationTimestamp.Sub(now)
	if s := granted.Spec.ExpirationSeconds; s != nil && *s > 0 {
		life = time.Duration(*s) * time.Second
	}
	return now.Add(life), now.Add(min(life*8/10, longest))
}

func (t *tokens) request(ctx context.Context, pod *corev1.Pod, k tokenKey) (*authenticationv1.TokenRequest, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &k.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if k.audience != "" {
		request.Spec.Audiences = []string{k.audience}
	}
	var answer *authenticationv1.TokenRequest
	err := retry(ctx, behindToken, func() (err error) {
		answer, err = t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, k.account, request, metav1.CreateOptions{})
		return err
	})
	return answer, err
}

func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.byKey {
		if k.pod == pod {
			delete(t.byKey, k)
		}
	}
}
