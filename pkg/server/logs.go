package server

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// target is the container that a request is about.
type target struct {
	pod       *corev1.Pod
	observed  runtime.Pod
	container string
}

// target finds the pod of a request; if there is none, it answers the request.
func (s *Server) target(w http.ResponseWriter, r *http.Request) (target, bool) {
	pod := s.config.Pods.Named(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil || (r.PathValue("uid") != "" && string(pod.UID) != r.PathValue("uid")) {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return target{}, false
	}
	return target{pod, s.runs(r.Context(), pod.UID), r.PathValue("container")}, true
}

// containerLogs serves a container's log; the parameters are PodLogOptions' of the API.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	t, ok := s.target(w, r)
	if !ok {
		return
	}
	o, previous, err := logOptions(r, s.config.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if c, _ := podspec.Find(t.pod, t.container); c == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", t.container, t.pod.Name), http.StatusNotFound)
		return
	}
	c := t.observed.Latest(t.container)
	if c != nil && previous {
		c = t.observed.Previous(t.container)
		if c == nil {
			http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", t.container, t.pod.Name), http.StatusBadRequest)
			return
		}
	}
	if c == nil {
		http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start%s", t.container, t.pod.Name, waiting(t.pod, t.container)), http.StatusBadRequest)
		return
	}
	id := c.ID
	o.Ended = func() bool {
		observed := s.runs(r.Context(), t.pod.UID)
		now := observed.Latest(t.container)
		return now == nil || now.ID != id || now.State == runtime.Exited
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	out := &flushing{w: w, c: http.NewResponseController(w)}
	if err := s.config.Logs(r.Context(), c.LogPath, o, out, out); err != nil && r.Context().Err() == nil {
		s.config.Log.Warn("Container log cannot be read", "path", c.LogPath, "err", err)
		if !out.written {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(out, "failed to read the log: %v\n", err)
	}
}

// flushing sends each piece at once: somebody may follow the log.
type flushing struct {
	w       io.Writer
	c       *http.ResponseController
	written bool
}

func (f *flushing) Write(b []byte) (int, error) {
	f.written = true
	n, err := f.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, f.c.Flush()
}

// waiting is ": reason" of a container that waits to start, else "".
func waiting(pod *corev1.Pod, name string) string {
	if s := podspec.Status(&pod.Status, name); s != nil && s.State.Waiting != nil {
		return ": " + s.State.Waiting.Reason
	}
	return ""
}

// query reads parameters and remembers the first error.
type query struct {
	url.Values
	err error
}

func (q *query) flag(name string) (v bool) {
	if s := q.Get(name); s != "" && q.err == nil {
		if v, q.err = strconv.ParseBool(s); q.err != nil {
			q.err = fmt.Errorf("invalid value %q of %s: must be true or false", s, name)
		}
	}
	return v
}

// number is nil without the parameter.
func (q *query) number(name string, least int64) *int64 {
	s := q.Get(name)
	if s == "" || q.err != nil {
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < least {
		q.err = fmt.Errorf("invalid value %q of %s: must be a number of at least %d", s, name, least)
	}
	return &v
}

func (q *query) stream() string {
	switch s := q.Get("stream"); s {
	case "", "All":
	case "Stdout", "Stderr":
		return strings.ToLower(s)
	default:
		q.err = cmp.Or(q.err, fmt.Errorf("invalid value %q of stream: must be All, Stdout or Stderr", s))
	}
	return ""
}

// logOptions reads PodLogOptions from the query.
func logOptions(r *http.Request, now time.Time) (o runtime.LogOptions, previous bool, err error) {
	q := query{Values: r.URL.Query()}
	o = runtime.LogOptions{
		Follow: q.flag("follow"), Timestamps: q.flag("timestamps"), Stream: q.stream(),
		Tail: q.number("tailLines", 0), LimitBytes: q.number("limitBytes", 1),
	}
	previous = q.flag("previous")
	if seconds := q.number("sinceSeconds", 1); seconds != nil {
		o.Since = now.Add(-time.Duration(min(*seconds, int64(math.MaxInt64/time.Second))) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" && q.err == nil {
		if o.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			q.err = fmt.Errorf("invalid value %q of sinceTime: must be an RFC 3339 time", s)
		}
	}
	return o, previous, q.err
}
