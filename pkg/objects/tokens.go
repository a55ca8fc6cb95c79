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

// longest is the time after which a token is renewed however long it would live.
const longest = 24 * time.Hour

// tokens are bound service-account tokens, one a pod, audience and life.
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
	mu      sync.Mutex // one asks at a time
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
			return have.value, nil // it is still good; the next refresh asks again
		}
		return "", fmt.Errorf("requesting a token of service account %s/%s: %w", pod.Namespace, account, err)
	}
	have.value, have.expires = fresh.Token, fresh.ExpirationTimestamp.Time
	have.renewAt = now.Add(min(have.expires.Sub(now)*8/10, longest))
	return have.value, nil
}

func (t *tokens) request(ctx context.Context, pod *corev1.Pod, k tokenKey) (authenticationv1.TokenRequestStatus, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &k.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if k.audience != "" {
		request.Spec.Audiences = []string{k.audience}
	}
	var answer *authenticationv1.TokenRequest
	err := retryForbidden(ctx, func() (err error) {
		answer, err = t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, k.account, request, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return authenticationv1.TokenRequestStatus{}, err
	}
	return answer.Status, nil
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
