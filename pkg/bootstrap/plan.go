// Package bootstrap is LOOP: it makes a machine a member of a cluster and keeps its certificates
// fresh.
//
// It reads the identity on disk and the API server, and alone writes: the cluster's CA file, the
// agent's kubeconfig, the certificates and keys in the certificate folder, the settings file and
// the environment file of the unit. It never writes a token to disk, and never sends one to a
// server whose certificate it has not verified against a pin.
//
// What remains to be done is decided by Plan, which is pure; Joiner carries it out; Rotator and
// Serving run inside the daemon afterwards.
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
	CheckName       Action = "look for a node of this name"
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

// Step is one thing that a join still has to do.
type Step struct {
	Phase  Phase
	Action Action
	// Target is the file, URL or unit that it is done to.
	Target string
	// Call is the API request, if it makes one; Mode the permissions of a file, if it writes one.
	Call, Mode string
	// Why says which missing or wrong thing makes it necessary.
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

// Config is what a join is to reach. It holds no secret, so that a plan can be printed.
type Config struct {
	// Servers are the API servers of one cluster, host:port, the first preferred. The daemon fails
	// over among them.
	Servers []string
	// Discovery is a kubeconfig that is trusted for address and CA, instead of token and hash;
	// empty: none.
	Discovery string
	// NodeName is the name in the certificate.
	NodeName string
	// Pins are the CA hashes given; Unpinned that none is wanted.
	Pins     []Pin
	Unpinned bool
	// Files are where things go.
	Files Files
	// Env is the text wanted in Files.Env; empty: not written.
	Env string
	// NoHostChecks leaves them out: the daemon does not repeat what join has checked.
	NoHostChecks bool
	// Proxy checks that the node may read EndpointSlices.
	Proxy bool
	// Start starts the unit, Unit its name; Wait waits for the node to be Ready.
	Start, Wait bool
	Unit        string
	// Renew asks for a new certificate even if the present one is good.
	Renew bool
}

// Files are the places of an identity.
type Files struct {
	CA, Kubeconfig, BootstrapKubeconfig string
	// Key is the key that has no certificate yet; Cert the link to the newest pair of certificate
	// and key.
	Key, Cert string
	// Settings holds what was learned from the cluster, as configuration documents; Env the
	// daemon's flags.
	Settings, Env string
}

// Observed is the identity found on disk, and the unit's state.
type Observed struct {
	// CAPins are those of the CA file; empty: no file, or not readable.
	CAPins []Pin
	// PendingKey: a key without a certificate is there, from a join that was interrupted.
	PendingKey bool
	Cert       Cert
	// KubeconfigServers are those in the kubeconfig, host:port; empty: no kubeconfig.
	// KubeconfigCert is its file.
	KubeconfigServers []string
	KubeconfigCert    string
	// KubeconfigTrust: the kubeconfig trusts the very CA of the CA file.
	KubeconfigTrust     bool
	BootstrapKubeconfig bool
	Settings            bool
	Env                 string
	// Active: the unit runs. Enabled: it starts at boot.
	Active, Enabled bool
	// Ready: the API server says that the node is Ready. Only asked when all else is in place.
	Ready bool
}

// Cert are the facts of a client certificate.
type Cert struct {
	// CommonName is empty when there is no certificate.
	CommonName          string
	Organizations       []string
	NotBefore, NotAfter time.Time
	// Paired: the key beside it is its own. Issued: the CA file signed it.
	Paired, Issued bool
}

// fault says why a certificate is of no use, or nothing.
func (c Cert) fault(nodeName string, now time.Time) string {
	switch {
	case c.CommonName == "":
		return "there is none yet"
	case c.CommonName != "system:node:"+nodeName:
		return fmt.Sprintf("the present one is for %q", c.CommonName)
	case !slices.Contains(c.Organizations, "system:nodes"):
		return "the present one is not in group system:nodes"
	case !c.Paired:
		return "the present one does not belong to its key"
	case !c.Issued:
		return "the present one is not signed by the cluster's CA"
	case !now.Before(c.NotAfter):
		return "the present one expired on " + c.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "the present one is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	}
	return ""
}

// Plan returns the steps still needed, in order; none: the machine has joined.
func Plan(observed Observed, c Config, now time.Time) []Step {
	caFault := caFault(observed, c)
	certFault := observed.Cert.fault(c.NodeName, now)
	if caFault != "" && certFault == "" {
		certFault = "the present one is by a CA that is not wanted"
	}
	if certFault == "" && c.Renew {
		certFault = "a new one was asked for"
	}
	if certFault != "" && caFault == "" && len(c.Pins) == 0 {
		caFault = "without a hash nothing says that the present one is still the cluster's"
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
		return "the present CA has none of the hashes given"
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
		steps = append(steps, Step{PhaseName, CheckName, "", "GET /api/v1/nodes/" + c.NodeName, "", "a Ready node must not be taken over by mistake"})
	}
	if observed.PendingKey {
		why = "an interrupted join left a key, which is used again"
	} else {
		steps = append(steps, Step{PhaseCertificate, MakeKey, c.Files.Key, "", "0600", "a key must outlive the wait for its certificate"})
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
		return "no hash is wanted: the token's signature alone is trusted"
	}
	return "no hash was given: this will be refused, and the hash seen be printed"
}

func identitySteps(observed Observed, c Config) []Step {
	var steps []Step
	why := ""
	switch {
	case len(observed.KubeconfigServers) == 0:
		why = "there is none yet"
	case len(c.Servers) > 0 && !sameMembers(c.Servers, observed.KubeconfigServers):
		why = "the present one names " + strings.Join(observed.KubeconfigServers, ", ")
	case observed.KubeconfigCert != c.Files.Cert:
		why = "the present one does not refer to the certificate that is rotated"
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

// settingSteps check before they write: what they write is the mark that the check has been passed.
func settingSteps(observed Observed, c Config, changed bool) []Step {
	var steps []Step
	read := c.Files.Settings != "" && !observed.Settings
	if c.Proxy && (changed || read) {
		steps = append(steps, Step{PhaseSettings, CheckProxy, "", "POST selfsubjectaccessreviews", "", "the services half needs them"})
	}
	if read {
		steps = append(steps, Step{
			PhaseSettings, ReadSettings, c.Files.Settings,
			"GET kube-system configmaps kubelet-config, kube-proxy, service kube-dns", "0644", "there are none of this cluster yet",
		})
	}
	if c.Files.Env != "" && c.Env != "" && observed.Env != c.Env {
		steps = append(steps, Step{PhaseSettings, WriteEnv, c.Files.Env, "", "0644", "the daemon must run with the flags given here"})
	}
	return steps
}

func daemonSteps(observed Observed, c Config, changed bool) []Step {
	var steps []Step
	if c.Start && (changed || !observed.Active || !observed.Enabled) {
		why := "it is not running"
		switch {
		case observed.Active && changed:
			why = "its identity or flags change"
		case observed.Active:
			why = "it does not start at boot"
		}
		steps = append(steps, Step{PhaseService, StartService, c.Unit, "", "", why})
	}
	if c.Wait && (len(steps) > 0 || !observed.Ready) {
		steps = append(steps, Step{PhaseReady, AwaitReady, c.NodeName, "GET /api/v1/nodes/" + c.NodeName, "", "a join ends with a Ready node"})
	}
	return steps
}
