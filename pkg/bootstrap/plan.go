// Package bootstrap is LOOP: it makes a machine a member of a cluster and keeps its certificates
// fresh.
//
// It reads the identity on disk and the API server. It alone writes the cluster's CA file, the
// agent's kubeconfig, the certificates and keys in the certificate folder, the settings file and
// the unit's environment file. It never writes a token to disk, and never sends one to a server
// whose certificate it has not verified.
//
// Plan, which is pure, decides what remains to be done; Joiner carries it out. Rotator and Serving
// run inside the daemon afterwards.
package bootstrap

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Phase is a numbered line of the output of `nodeagent join`.
type Phase int

// The phases, in order.
const (
	PhaseHost Phase = iota + 1
	PhaseReach
	PhaseIdentity
	PhaseName
	PhaseCertificate
	PhaseSettings
	PhaseService
	PhaseReady
)

// Phases is how many there are.
const Phases = int(PhaseReady)

func (p Phase) String() string {
	names := []string{"", "host checks", "reach api server", "cluster identity", "node name", "client certificate", "cluster settings", "service", "node ready"}
	if p < PhaseHost || p > PhaseReady {
		return fmt.Sprintf("phase %d", int(p))
	}
	return names[p]
}

// Action is what a step does.
type Action string

// The actions, in the order in which a plan can hold them.
const (
	CheckHost       Action = "check this machine"
	FetchInfo       Action = "fetch kube-public/cluster-info"
	VerifyInfo      Action = "verify its signature and CA, fetch it again over verified TLS"
	TrustFile       Action = "take address and CA from kubeconfig"
	WriteCA         Action = "write"
	CheckName       Action = "check whether there is a node of this name"
	MakeKey         Action = "make the private key"
	RequestCert     Action = "request and wait for the client certificate"
	WriteKubeconfig Action = "write the kubeconfig"
	CheckProxy      Action = "check that the node may read EndpointSlices"
	ReadSettings    Action = "read the cluster's settings and write them"
	WriteEnv        Action = "write the daemon's flags"
	DropBootstrap   Action = "remove the bootstrap kubeconfig"
	StartService    Action = "enable and start"
	AwaitReady      Action = "wait for the node to be Ready"
)

// Step is one step that a join still has to take.
type Step struct {
	Phase  Phase
	Action Action
	// Target is the file, URL or unit that it acts on.
	Target string
	// Call is the API request, if there is one; Mode is the mode of the file, if it writes one.
	Call, Mode string
	// Why says what makes it necessary.
	Why string
}

func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%d/%d] %s", s.Phase, Phases, s.Action)
	if s.Target != "" {
		fmt.Fprintf(&b, " %s", s.Target)
	}
	if s.Mode != "" {
		fmt.Fprintf(&b, " (%s)", s.Mode)
	}
	if s.Call != "" {
		fmt.Fprintf(&b, " [%s]", s.Call)
	}
	return b.String() + ": " + s.Why
}

// Config is the goal of a join. It holds no secret, so that a plan can be printed.
type Config struct {
	// Servers are the API servers of one cluster, host:port, the first preferred. The daemon fails
	// over among them.
	Servers []string
	// Discovery is a kubeconfig to trust for address and CA, instead of token and hash; empty:
	// none.
	Discovery string
	// NodeName is the name in the certificate.
	NodeName string
	// Pins are the CA hashes that were given. Unpinned: none is required.
	Pins     []Pin
	Unpinned bool
	// Files are the places of the identity.
	Files Files
	// Env is the wanted text of Files.Env; empty: the file is not written.
	Env string
	// NoHostChecks leaves out the host checks: the daemon does not repeat those of join.
	NoHostChecks bool
	// Proxy checks that the node may read EndpointSlices.
	Proxy bool
	// Start starts the unit, whose name is Unit. Wait waits until the node is Ready.
	Start, Wait bool
	Unit        string
	// Renew requests a new certificate even if the current one is valid.
	Renew bool
}

// Files are the places of an identity.
type Files struct {
	CA, Kubeconfig, BootstrapKubeconfig string
	// Key is the key that has no certificate yet. Cert is the link to the newest pair of
	// certificate and key.
	Key, Cert string
	// Settings holds the cluster's settings, as configuration documents. Env holds the daemon's
	// flags.
	Settings, Env string
}

// Observed is the identity on disk and the unit's state.
type Observed struct {
	// CAPins are those of the CA file; empty: no file, or an unreadable one.
	CAPins []Pin
	// PendingKey: there is a key without a certificate, from an interrupted join.
	PendingKey bool
	Cert       Cert
	// KubeconfigServers are those in the kubeconfig, host:port; empty: no kubeconfig.
	// KubeconfigCert is its certificate file.
	KubeconfigServers []string
	KubeconfigCert    string
	// KubeconfigTrust: the kubeconfig trusts exactly the CA of the CA file.
	KubeconfigTrust     bool
	BootstrapKubeconfig bool
	Settings            bool
	Env                 string
	// Active: the unit runs. Enabled: it starts at boot.
	Active, Enabled bool
	// Ready: the API server says that the node is Ready. It is asked only if the unit runs.
	Ready bool
}

// Cert are the facts of a client certificate.
type Cert struct {
	// CommonName is empty if there is no certificate.
	CommonName          string
	Organizations       []string
	NotBefore, NotAfter time.Time
	// Paired: the key beside it belongs to it. Issued: the CA of the CA file signed it.
	Paired, Issued bool
}

// fault says why a certificate cannot be used; "": it can.
func (c Cert) fault(nodeName string, now time.Time) string {
	switch {
	case c.CommonName == "":
		return "there is none yet"
	case c.CommonName != "system:node:"+nodeName:
		return fmt.Sprintf("the current one is for %q", c.CommonName)
	case !slices.Contains(c.Organizations, "system:nodes"):
		return "the current one is not in group system:nodes"
	case !c.Paired:
		return "the current one does not belong to its key"
	case !c.Issued:
		return "the current one is not signed by the cluster's CA"
	case !now.Before(c.NotAfter):
		return "the current one expired on " + c.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "the current one is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	}
	return ""
}

// Plan returns the steps that are still needed, in order; none: the machine has joined.
func Plan(observed Observed, c Config, now time.Time) []Step {
	caFault := caFault(observed, c)
	certFault := observed.Cert.fault(c.NodeName, now)
	if caFault != "" && certFault == "" {
		certFault = "the current one is signed by another CA than the one given"
	}
	if certFault == "" && c.Renew {
		certFault = "a new one was requested"
	}
	if certFault != "" && caFault == "" && len(c.Pins) == 0 {
		caFault = "without a hash nothing proves that the current one is still the cluster's"
	}
	var steps []Step
	if certFault != "" {
		steps = append(steps, joinSteps(observed, c, caFault, certFault)...)
		observed.KubeconfigTrust = observed.KubeconfigTrust && caFault == ""
	}
	steps = append(steps, identitySteps(observed, c)...)
	if certFault != "" && caFault != "" {
		observed.Settings = false // another cluster's, perhaps
	}
	steps = append(steps, settingSteps(observed, c, len(steps) > 0)...)
	return append(steps, daemonSteps(observed, c, len(steps) > 0)...)
}

func caFault(observed Observed, c Config) string {
	switch {
	case len(observed.CAPins) == 0:
		return "there is no CA file yet"
	case len(c.Pins) > 0 && !slices.ContainsFunc(observed.CAPins, func(p Pin) bool { return slices.Contains(c.Pins, p) }):
		return "the current CA has none of the given hashes"
	}
	return ""
}

func joinSteps(observed Observed, c Config, caFault, certFault string) []Step {
	info := "GET https://" + strings.Join(c.Servers, "|") + "/api/v1/namespaces/kube-public/configmaps/cluster-info"
	why := "a certificate is needed: " + certFault
	var steps []Step
	if !c.NoHostChecks {
		steps = append(steps, Step{PhaseHost, CheckHost, "", "", "", why})
	}
	if c.Discovery != "" {
		steps = append(steps, Step{PhaseIdentity, TrustFile, c.Discovery, "GET /version", "", why})
	} else {
		steps = append(steps, Step{PhaseReach, FetchInfo, "", info + ", unverified, without the token", "", why},
			Step{PhaseIdentity, VerifyInfo, "", info, "", trustWhy(c)})
	}
	if caFault != "" {
		steps = append(steps, Step{PhaseIdentity, WriteCA, c.Files.CA, "", "0644", caFault})
	}
	if own := observed.Cert; caFault != "" || own.CommonName != "system:node:"+c.NodeName || !own.Paired || !own.Issued {
		steps = append(steps, Step{PhaseName, CheckName, "", "GET /api/v1/nodes/" + c.NodeName, "", "join must not take over a Ready node by mistake"})
	}
	if observed.PendingKey {
		why = "an interrupted join left a key, which is reused"
	} else {
		steps = append(steps, Step{PhaseCertificate, MakeKey, c.Files.Key, "", "0600", "the key must be on disk before its certificate is requested"})
	}
	return append(steps, Step{
		PhaseCertificate, RequestCert, c.Files.Cert,
		"POST /apis/certificates.k8s.io/v1/certificatesigningrequests, WATCH until signed", "0600", why,
	})
}

func trustWhy(c Config) string {
	if len(c.Pins) > 0 {
		return "the CA must have hash " + pinTexts(c.Pins)
	}
	if c.Unpinned {
		return "no hash is required: the token's signature alone is trusted"
	}
	return "no hash was given: the step will fail and print the CA's hash"
}

func identitySteps(observed Observed, c Config) []Step {
	var steps []Step
	why := ""
	switch {
	case len(observed.KubeconfigServers) == 0:
		why = "there is none yet"
	case len(c.Servers) > 0 && !sameMembers(c.Servers, observed.KubeconfigServers):
		why = "the current one names " + strings.Join(observed.KubeconfigServers, ", ")
	case observed.KubeconfigCert != c.Files.Cert:
		why = "the current one does not refer to the certificate that is rotated"
	case !observed.KubeconfigTrust:
		why = "it must trust the CA file's CA"
	}
	if why != "" {
		steps = append(steps, Step{PhaseCertificate, WriteKubeconfig, c.Files.Kubeconfig, "", "0600", why})
	}
	if c.Files.BootstrapKubeconfig != "" && observed.BootstrapKubeconfig {
		steps = append(steps, Step{PhaseCertificate, DropBootstrap, c.Files.BootstrapKubeconfig, "", "", "its credentials are no longer needed"})
	}
	return steps
}

func sameMembers(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}

// settingSteps check before they write: the written file shows that the check was passed.
func settingSteps(observed Observed, c Config, changed bool) []Step {
	var steps []Step
	read := c.Files.Settings != "" && !observed.Settings
	if c.Proxy && (changed || read) {
		steps = append(steps, Step{PhaseSettings, CheckProxy, "", "POST selfsubjectaccessreviews", "", "the services half reads them"})
	}
	if read {
		steps = append(steps, Step{
			PhaseSettings, ReadSettings, c.Files.Settings,
			"GET kube-system configmaps kubelet-config, kube-proxy, service kube-dns", "0644", "there are none of this cluster yet",
		})
	}
	if c.Files.Env != "" && c.Env != "" && observed.Env != c.Env {
		steps = append(steps, Step{PhaseSettings, WriteEnv, c.Files.Env, "", "0644", "the daemon must run with the flags of this command"})
	}
	return steps
}

func daemonSteps(observed Observed, c Config, changed bool) []Step {
	var steps []Step
	if c.Start && (changed || !observed.Active || !observed.Enabled) {
		why := "it is not running"
		switch {
		case observed.Active && changed:
			why = "its identity or flags have changed"
		case observed.Active:
			why = "it does not start at boot"
		}
		steps = append(steps, Step{PhaseService, StartService, c.Unit, "", "", why})
	}
	if c.Wait && (len(steps) > 0 || !observed.Ready) {
		steps = append(steps, Step{PhaseReady, AwaitReady, c.NodeName, "GET /api/v1/nodes/" + c.NodeName, "", "a join ends when the node is Ready"})
	}
	return steps
}
