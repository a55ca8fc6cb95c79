package lifecyclehandler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPort(t *testing.T) {
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}
	for _, x := range []struct {
		port     intstr.IntOrString
		fallback int
		want     int // 0: refused
	}{
		{intstr.FromInt32(81), 80, 81},
		{intstr.FromString("web"), 80, 8080},
		{intstr.FromString("82"), 80, 82},
		{intstr.FromString("other"), 80, 0},
		{intstr.FromString(""), 80, 80},
		{intstr.FromInt32(0), 80, 80},
		{intstr.FromInt32(0), 0, 0},
		{intstr.FromInt32(-1), 80, 0},
		{intstr.FromInt32(65536), 80, 0},
	} {
		if got, err := Port(x.port, c, x.fallback); got != x.want || (err != nil) != (x.want == 0) {
			t.Errorf("port %q with fallback %d is %d, %v; want %d", x.port.String(), x.fallback, got, err, x.want)
		}
	}
}

func TestURL(t *testing.T) {
	for _, x := range []struct {
		h    corev1.HTTPGetAction
		want string
	}{
		{corev1.HTTPGetAction{Path: "/ok?a=b"}, "http://[fd00::1]:80/ok?a=b"},
		{corev1.HTTPGetAction{Path: "/", Host: "app.example", Scheme: corev1.URISchemeHTTPS}, "https://app.example:80/"},
		{corev1.HTTPGetAction{Path: "/%zz"}, "http://[fd00::1]:80/%25zz"},
	} {
		if got := URL(&x.h, "fd00::1", 80).String(); got != x.want {
			t.Errorf("%+v asks %q, want %q", x.h, got, x.want)
		}
	}
}

func TestOutputKeepsTheBeginning(t *testing.T) {
	var o Output
	for range 3 {
		if n, err := o.Write([]byte(strings.Repeat("x", MaxOutput/2+1))); n != MaxOutput/2+1 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	if len(o.String()) != MaxOutput {
		t.Errorf("%d bytes kept, want %d", len(o.String()), MaxOutput)
	}
}
