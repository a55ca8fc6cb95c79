package bootstrap

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/klog/v2"
)

// request says which certificate to request.
type request struct {
	template *x509.CertificateRequest
	signer   string
	usages   []certificatesv1.KeyUsage
	// forbidden is the remedy if the API server forbids the request; "": that for a bootstrap
	// token.
	forbidden string
}

// forbiddenToNodes is the remedy for requests that a node makes as itself.
const forbiddenToNodes = "check that the API server runs with --authorization-mode Node,RBAC, and that the certificate is this node's: nodeagent status; or " + rejoin

// clientRequest is what kubernetes.io/kube-apiserver-client-kubelet signs, and nothing else
// (KEP-1513).
func clientRequest(nodeName string) request {
	return request{
		template: &x509.CertificateRequest{Subject: nodeSubject(nodeName)},
		signer:   certificatesv1.KubeAPIServerClientKubeletSignerName,
		usages:   []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}
}

func nodeSubject(nodeName string) pkix.Name {
	return pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + nodeName}
}

// name depends only on key and template, so that a retry finds its own request again.
func (r request) name(der []byte, key *ecdsa.PrivateKey) (string, error) {
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return "", fmt.Errorf("reading back a certificate request: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %s %s %v %v", public, r.signer, parsed.Subject, parsed.DNSNames, parsed.IPAddresses))
	return "nodeagent-csr-" + hex.EncodeToString(sum[:])[:20], nil
}

// sign requests a certificate for key and waits for it until ctx ends. It calls pending with the
// request's name as soon as the request exists. Errors are of CodeCertificate or CodeToken.
func (r request) sign(ctx context.Context, client kubernetes.Interface, key *ecdsa.PrivateKey, pending func(name string)) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, r.template, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	name, err := r.name(der, key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	ctx = klog.NewContext(ctx, logr.Discard()) // client-go would log to stderr, into the middle of the output
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, text, name, r.signer, nil, r.usages, key)
	if err != nil {
		return nil, r.createError(err)
	}
	pending(name)
	certPEM, err := csr.WaitForCertificate(ctx, client, name, uid)
	if err != nil {
		return nil, r.waitError(ctx, client, name, err)
	}
	return certPEM, matches(certPEM, key)
}

// matches refuses a signed certificate for another key.
func matches(certPEM []byte, key *ecdsa.PrivateKey) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return fail(CodeCertificate, "read the signer's log", "reading the signed certificate: it is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fail(CodeCertificate, "read the signer's log", "reading the signed certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return fail(CodeCertificate, "read the signer's log; then run the same command again: it makes a new request",
			"reading the signed certificate: it is for another key; the request for this one %w", errRefused)
	}
	return nil
}

func (r request) createError(err error) error {
	switch {
	case apierrors.IsUnauthorized(err):
		return fail(CodeToken, tokenNext, "requesting a certificate: the API server does not accept these credentials: %w", err)
	case apierrors.IsForbidden(err):
		return fail(CodeToken, cmp.Or(r.forbidden, "kubectl create clusterrolebinding nodeagent:bootstrap --clusterrole=system:node-bootstrapper --group=system:bootstrappers"),
			"requesting a certificate: these credentials may not request one: %w", err)
	}
	// client-go has only this text for a request of this name by somebody else
	if strings.Contains(err.Error(), "not compatible") {
		return fail(CodeCertificate, "run the same command again: it makes a new request", "requesting a certificate: %w: the request %w", err, errRefused)
	}
	return fail(CodeCertificate, "run the same command again: it goes on where it stopped", "requesting a certificate: %w", err)
}

// errRefused marks a request that will never be signed.
var errRefused = errors.New("will not be signed")

// waitError reads the request once more, because the wait's own error says little.
func (r request) waitError(ctx context.Context, client kubernetes.Interface, name string, cause error) error {
	next := "kubectl certificate approve " + name
	if ctx.Err() != nil {
		return fail(CodeCertificate, next+"   (no controller approved it: is ClusterRoleBinding kubeadm:node-autoapprove-bootstrap there?), then run the same command again",
			"waiting for certificate request %s: it is still pending", name)
	}
	got, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fail(CodeCertificate, "run the same command again", "waiting for certificate request %s: %w", name, errors.Join(cause, err))
	}
	for _, c := range got.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
			return fail(CodeCertificate, "find out why with: kubectl describe csr "+name+"; then run the same command again: it makes a new request",
				"waiting for certificate request %s: it is %s (%s: %s): %w", name, c.Type, c.Reason, c.Message, errRefused)
		}
	}
	return fail(CodeCertificate, next, "waiting for certificate request %s: %w", name, cause)
}
