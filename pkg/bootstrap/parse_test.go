package bootstrap

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"k8s.io/cluster-bootstrap/token/jws"
)

// TestTokenStaysSecret: no format prints the second half.
func TestTokenStaysSecret(t *testing.T) {
	t.Parallel()
	token, err := ParseToken(" abcdef.0123456789abcdef\n")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token, "in", struct{ T Token }{token})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token, "in", struct{ T Token }{token})
	b, err := json.Marshal(struct{ T Token }{token})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %v %+v %#v", token, token, token, token, token, struct{ T Token }{token}, []Token{token}, map[string]Token{"a": token}) +
		log.String() + string(b)
	if strings.Contains(all, "0123456789") || !strings.Contains(all, "abcdef.****") {
		t.Errorf("printed: %s", all)
	}
}

func TestUnpaste(t *testing.T) {
	t.Parallel()
	want := []string{"h:6443", "--token", "abcdef.0123456789abcdef", "--discovery-token-ca-cert-hash", "sha256:00"}
	line := "kubeadm join h:6443 --token abcdef.0123456789abcdef \\\n\t--discovery-token-ca-cert-hash sha256:00 "
	for _, args := range [][]string{{line}, {"sudo " + line}, {"$ sudo " + line}, strings.Fields(line), want, append([]string{"sudo"}, strings.Fields(line)...)} {
		if got := Unpaste(args); !slices.Equal(got, want) {
			t.Errorf("%q gives %q", args, got)
		}
	}
	if got := Unpaste([]string{"h", "--node-labels", "a=b c"}); !slices.Equal(got, []string{"h", "--node-labels", "a=b c"}) {
		t.Errorf("a value with a space was split: %q", got)
	}
}

func TestParseServers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:6443", "10.0.0.1:443": "10.0.0.1:443", "https://cp.example:6443/": "cp.example:6443", "fd00::1": "[fd00::1]:6443",
		"[fd00::1]:1": "[fd00::1]:1", "a,b:1": "a:6443 b:1", "": "", ",": "", "a:0": "", "a:99999": "", "a b": "", "http://a": "", "a/b": "", "[::1": "",
	} {
		got, err := ParseServers(in)
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("%q gives %q, %v; want %q", in, got, err, want)
		}
		if err != nil && ExitCode(err) != int(CodeReach) {
			t.Errorf("%q: exit code %d", in, ExitCode(err))
		}
	}
}

func TestEnvText(t *testing.T) {
	t.Parallel()
	if got, err := EnvText([]string{"--v=4", "--node-ip=::1"}); err != nil || !strings.HasSuffix(got, "NODEAGENT_ARGS=\"--v=4 --node-ip=::1\"\n") {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"--node-labels=a=b c", `--x="`, "--x=$HOME", "--x=a\nEVIL=1"} {
		if _, err := EnvText([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// FuzzParsers: no text makes a parser panic, and accepted values are valid.
func FuzzParsers(f *testing.F) {
	f.Add("abcdef.0123456789abcdef")
	f.Add("kubeadm join h:6443 --token abcdef.0123456789abcdef \\\n --discovery-token-ca-cert-hash sha256:00")
	f.Add("sha256:" + strings.Repeat("0a", 32))
	f.Add("https://[fd00::1]:6443,b")
	f.Add("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
	f.Add(`{"major":"1","minor":"36+","gitVersion":"v1.36.3"}`)
	f.Add("clusters: [{name: a, cluster: {certificate-authority-data: AA==}}]")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil && token.bearer() != strings.TrimSpace(text) {
			t.Errorf("token %q", text)
		} else if err != nil && len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats the token: %v", err)
		}
		if pin, err := ParsePin(text); err == nil && !strings.EqualFold(pin.String(), strings.TrimSpace(text)) {
			t.Errorf("pin %q", text)
		}
		if servers, err := ParseServers(text); err == nil {
			again, err := ParseServers(strings.Join(servers, ","))
			if err != nil || !slices.Equal(again, servers) {
				t.Errorf("servers %q give %q, again %q, %v", text, servers, again, err)
			}
		}
		if once := Unpaste([]string{text}); !slices.Equal(Unpaste(once), once) && len(once) != 1 {
			t.Errorf("unpaste %q gives %q", text, once)
		}
		_, _ = versionOf([]byte(text))
		if certs, err := parseCAs([]byte(text)); err == nil && len(certs) == 0 {
			t.Error("a bundle without certificates was accepted")
		}
		_, _, _ = embeddedCA(answer{kubeconfig: text})
		_ = parseKey([]byte(text))
	})
}

// FuzzSignature: only the signature by the token is accepted (RFC 7515 appendix F: the payload is
// detached).
func FuzzSignature(f *testing.F) {
	token := Token{"abcdef", "0123456789abcdef"}
	good, err := jws.ComputeDetachedSignature("text", token.id, token.secret)
	if err != nil {
		f.Fatal(err)
	}
	other, err := jws.ComputeDetachedSignature("text", token.id, "fedcba9876543210")
	if err != nil {
		f.Fatal(err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"abcdef"}`)) + ".."
	for _, s := range []string{good, other, none, "..", "", good + ".", strings.Replace(good, "..", "."+base64.RawURLEncoding.EncodeToString([]byte("text"))+".", 1)} {
		f.Add("text", s)
	}
	f.Add("another text", good)
	f.Fuzz(func(t *testing.T, text, signature string) {
		a := answer{server: "h:1", kubeconfig: text, signatures: map[string]string{token.id: signature}}
		want, err := jws.ComputeDetachedSignature(text, token.id, token.secret)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.signedBy(token); got != (signature == want) {
			t.Errorf("%q under %q: accepted %v, the token makes %q", signature, text, got, want)
		}
	})
}
