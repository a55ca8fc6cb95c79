package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// api is one of a cluster's API servers, with a handler that can be changed.
type api struct {
	address string
	served  atomic.Int32
	do      atomic.Pointer[http.HandlerFunc]
}

func newAPI(t *testing.T, ca *authority) *api {
	a := new(api)
	a.address = ca.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.served.Add(1)
		if do := a.do.Load(); do != nil {
			(*do)(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Host, body)
	}), nil)
	return a
}

func (a *api) set(do http.HandlerFunc) { a.do.Store(&do) }

// TestFailover: for each fault of the first address, who answers a read and a write, and where the
// next request goes.
func TestFailover(t *testing.T) {
	t.Parallel()
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, tc := range map[string]struct {
		fault   func(first *api)
		foreign bool   // the first has another cluster's certificate
		dead    bool   // nothing listens at the first
		read    string // the server whose answer a read gets; empty: none
		write   string // … a write
		next    string // the server in use afterwards
	}{
		"good":                {read: "first", write: "first", next: "first"},
		"nothing listens":     {dead: true, read: "second", write: "second", next: "second"},
		"another certificate": {foreign: true, read: "second", write: "second", next: "second"},
		"hangs up":            {fault: func(a *api) { a.set(hangUp) }, read: "second", write: "", next: "second"},
		"says nothing": {
			fault: func(a *api) { a.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }) },
			read:  "", write: "", next: "second",
		},
		"unavailable": {
			fault: func(a *api) {
				a.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			},
			read: "503", write: "503", next: "second",
		},
		"not found": {fault: func(a *api) { a.set(http.NotFound) }, read: "404", write: "404", next: "first"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				ca := newAuthority(t, "kubernetes")
				first, second := newAPI(t, ca), newAPI(t, ca)
				switch {
				case tc.foreign:
					first = newAPI(t, newAuthority(t, "another"))
				case tc.dead:
					first = &api{address: "127.0.0.1:1"}
				case tc.fault != nil:
					tc.fault(first)
				}
				names := map[string]string{first.address: "first", second.address: "second"}
				kubeconfig, _ := node(t, ca, 2*time.Hour, first.address, second.address)
				creds, err := LoadCredentials(kubeconfig)
				if err != nil {
					t.Fatal(err)
				}
				client, err := rest.HTTPClientFor(creds.Config(Options{UserAgent: "test", Timeout: 2 * time.Second}))
				if err != nil {
					t.Fatal(err)
				}
				want := tc.read
				if method == http.MethodPost {
					want = tc.write
				}
				if got := ask(t, client, method, first.address, names); got != want {
					t.Errorf("answered by %q, want %q", got, want)
				}
				if method == http.MethodPost && first.served.Load()+second.served.Load() > 1 {
					t.Errorf("a write was made %d times", first.served.Load()+second.served.Load())
				}
				if got := names[creds.Server()]; got != tc.next {
					t.Errorf("in use afterwards: %q, want %q", got, tc.next)
				}
			})
		}
	}
}

// ask returns the name of the server that answered, or the status; "" after a failure.
func ask(t *testing.T, client *http.Client, method, address string, names map[string]string) string {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("text")
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+"/x", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	host, text, _ := strings.Cut(string(b), " ")
	if method == http.MethodPost && text != "text" {
		t.Errorf("the body arrived as %q", text)
	}
	return names[host]
}

// TestFailoverGivesUp: if no address answers, each is tried once and the error names all. A
// request that its caller cancels does not change the address in use.
func TestFailoverGivesUp(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	kubeconfig, _ := node(t, ca, 2*time.Hour, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
	creds, err := LoadCredentials(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(creds.Config(Options{UserAgent: "test"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Get("https://127.0.0.1:1/x")
	for _, address := range creds.servers.list {
		if err == nil || strings.Count(err.Error(), "dial tcp "+address) != 1 {
			t.Errorf("%s is not named once: %v", address, err)
		}
	}
	if creds.Server() != "127.0.0.1:1" {
		t.Errorf("after one round %s is in use", creds.Server())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:1/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(r); !errors.Is(err, context.Canceled) || creds.Server() != "127.0.0.1:1" {
		t.Errorf("cancelled: %v, then %s is in use", err, creds.Server())
	}
}

// TestKubeconfigServers: the list survives writing and reading, and other programs see a plain
// kubeconfig for the first server.
func TestKubeconfigServers(t *testing.T) {
	t.Parallel()
	for _, servers := range [][]string{{"a:1"}, {"b:1", "[fd00::1]:2", "c:3"}} {
		text, err := renderKubeconfig(servers, []byte("CA"), "n1", "/cert")
		if err != nil {
			t.Fatal(err)
		}
		if got := parseKubeconfig(text); !slices.Equal(got.servers, servers) || got.certFile != "/cert" || string(got.ca) != "CA" {
			t.Errorf("%v come back as %+v", servers, got)
		}
		plain, err := clientcmd.Load(text)
		if err != nil || len(plain.Clusters) != 1 || plain.Clusters["default-cluster"].Server != "https://"+servers[0] {
			t.Errorf("%v are for others %+v, %v", servers, plain, err)
		}
	}
}

// FuzzKubeconfig: no text makes the reader panic, and every address that it finds, except the
// first, is host:port.
func FuzzKubeconfig(f *testing.F) {
	text, err := renderKubeconfig([]string{"a:1", "[fd00::1]:2"}, []byte("CA"), "n1", "/cert")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("clusters: [{name: a, cluster: {server: https://h}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: c, context: {cluster: a, user: u}}]\ncurrent-context: c\n")
	f.Fuzz(func(t *testing.T, text string) {
		k := parseKubeconfig([]byte(text))
		if len(k.servers) == 0 {
			if k.certFile != "" || k.ca != nil || k.caFile != "" {
				t.Errorf("%q counts as absent, but says %+v", text, k)
			}
			return
		}
		if k.servers[0] == "" {
			t.Errorf("%q has an empty address", text)
		}
		if again, err := ParseServers(strings.Join(k.servers[1:], ",")); len(k.servers) > 1 && (err != nil || !slices.Equal(again, k.servers[1:])) {
			t.Errorf("%q: %q are not addresses: %v", text, k.servers[1:], err)
		}
	})
}
