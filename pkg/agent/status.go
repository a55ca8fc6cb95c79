package agent

import (
	"time"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/proxier/stack"
	"github.com/nodeagent/nodeagent/pkg/status/errorlog"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// statusReport makes what `nodeagent status` shows.
type statusReport struct {
	shared
	identity *bootstrap.Credentials
	certs    *certificates
	node     *nodeObject
	pods     *podsHalf
	services *stack.Stack
	errors   *errorlog.Handler
	started  time.Time
}

func (s *statusReport) report() summary.Report {
	r := summary.Report{
		Version: version.Kubernetes(), At: s.now(), Started: s.started, Errors: s.errors.Last(), Memory: footprint.Resident(),
		Node: summary.Node{Name: s.config.Node.Name, Server: "https://" + s.identity.Server(), Lease: s.node.lease.Renewed(), Expires: s.identity.Expires()},
	}
	r.Node.Describe(s.node.reporter.Current(), s.node.reporter.Deleted())
	r.Node.AwaitsApproval("serving certificate request", s.certs.serving.Pending())
	r.Node.AwaitsApproval("client certificate request", s.certs.client.Pending())
	for _, closed := range s.ports.Closed() {
		r.Node.Warn(closed + "; it is tried again every few seconds")
	}
	if s.pods != nil {
		s.pods.describe(&r)
	}
	if s.services != nil {
		s.services.Describe(&r)
	}
	return r
}

// describe adds the pods and what is done about them.
func (p *podsHalf) describe(r *summary.Report) {
	if !p.cgroups.V2() {
		r.Node.Warn("cgroup v1 is on its way out: move this machine to cgroup v2")
	}
	for _, problem := range p.static.Problems() {
		r.Node.Warn(problem.File + ": " + problem.Err.Error())
	}
	for _, v := range p.loop.Snapshot() {
		pod := summary.Pod{
			Namespace: v.Namespace, Name: v.Name, UID: string(v.UID), Reason: v.Refused,
			Plan: v.Plan, UnderWay: v.Running, WakeAt: v.WakeAt, LastError: v.LastError,
		}
		pod.Describe(v.Status)
		r.Pods = append(r.Pods, pod)
	}
}
