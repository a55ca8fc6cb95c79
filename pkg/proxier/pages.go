package proxier

import (
	"encoding/json"
	"net/http"
)

// Pages are those of kube-proxy's metrics port.
type Pages struct {
	// Mode is the mode that is programmed.
	Mode string
	// Metrics is /metrics.
	Metrics http.Handler
	// Configz is what /configz answers as JSON.
	Configz func() any
	// Profiles adds /debug/pprof; nil: there is none.
	Profiles func(*http.ServeMux)
}

// Handler serves them. Its /healthz says only that the process answers; whether the services half
// keeps up is on the port of Health.
func (p Pages) Handler() http.Handler {
	m := http.NewServeMux()
	m.Handle("/proxyMode", text(p.Mode))
	m.Handle("/metrics", p.Metrics)
	m.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	m.HandleFunc("/configz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(p.Configz())
	})
	if p.Profiles != nil {
		p.Profiles(m)
	}
	return m
}

func text(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(body))
	})
}
