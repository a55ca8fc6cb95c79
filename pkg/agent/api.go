package agent

import (
	"cmp"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/server"
)

// newAPI makes everything that answers questions: the status socket, the health page and, with a
// pods half, the node API.
func newAPI(s shared, certs *certificates, p *podsHalf, status *statusReport) ([]part, error) {
	c := s.config
	parts := []part{{"status socket", server.StatusSocket{Path: c.Paths.StatusSocket, Report: status.report, Log: s.log}.Run, nil}}
	if at := c.Server.Healthz; at.IsValid() && at.Port() != 0 {
		parts = append(parts, part{"health page", server.NewHealth(server.HealthConfig{Listen: at, Ports: s.ports, Healthy: p.healthy, Log: s.log}).Run, nil})
	}
	if p == nil || !c.Server.Enabled {
		return parts, nil
	}
	api, err := newServer(s, certs, p)
	if err != nil {
		return nil, err
	}
	return append(parts, part{"serving certificate", certs.serving.Run, nil}, part{"node API", api.Run, nil}), nil
}

func newServer(s shared, certs *certificates, p *podsHalf) (*server.Server, error) {
	c := s.config
	version, suites, err := server.TLSOptions(c.Server.MinVersion, c.Server.CipherSuites)
	if err != nil {
		return nil, err
	}
	ca, err := server.NewClientCA(cmp.Or(c.Auth.ClientCAFile, c.Identity.ClusterCA), c.Auth.ClientCAFile == "", s.now)
	if err != nil {
		return nil, err
	}
	auth := server.AuthConfig{ClientCA: ca.Pool, TokenTTL: c.Auth.WebhookTTL, Anonymous: c.Auth.Anonymous, Now: s.now}
	if c.Auth.Webhook {
		auth.Tokens = s.clients.Review.AuthenticationV1().TokenReviews()
	}
	var access server.Authorizer = server.AllowAll{}
	if !c.Auth.AlwaysAllow {
		access = server.NewAccess(server.AccessConfig{
			Node: c.Node.Name, Reviews: s.clients.Review.AuthorizationV1().SubjectAccessReviews(),
			AllowTTL: c.Auth.AllowTTL, DenyTTL: c.Auth.DenyTTL, Now: s.now,
		})
	}
	logDir := ""
	if c.Server.SystemLogs {
		logDir = "/var/log"
	}
	return server.New(server.Config{
		Listen: c.Server.Listen, Ports: s.ports, Pods: p.loop, Runtime: p.machinery, Logs: logpump.Read,
		Auth: server.NewAuth(auth), Access: access, Certificate: certs.serving.GetCertificate, ClientCA: ca.Pool,
		MinVersion: version, CipherSuites: suites, Metrics: server.MetricsHandler(s.registry), Healthy: p.healthy,
		Debugging: c.Server.Debugging, Profiling: c.Server.Profiling, LogDir: logDir, StreamIdle: c.Server.StreamIdle,
		Now: s.now, Log: s.log, Configz: func() any { return map[string]any{config.KubeletKey: c.KubeletConfiguration()} },
	})
}
