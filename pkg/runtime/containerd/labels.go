package containerd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/clip"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Labels of container records. CRI's labels are never used: its plugin would take the container for
// its own.
const (
	labelUID         = "nodeagent.dev/pod-uid"
	labelNamespace   = "nodeagent.dev/pod-namespace"
	labelPod         = "nodeagent.dev/pod-name"
	labelName        = "nodeagent.dev/container" // absent on a sandbox's reaper
	labelAttempt     = "nodeagent.dev/attempt"
	labelSandbox     = "nodeagent.dev/sandbox"
	labelImage       = "nodeagent.dev/image"
	labelImageID     = "nodeagent.dev/image-id"
	labelImageDigest = "nodeagent.dev/image-digest"
	labelStopSignal  = "nodeagent.dev/stop-signal"
	labelSpecHash    = "nodeagent.dev/spec-hash"
	labelResources   = "nodeagent.dev/sizes"
	labelLogPath     = "nodeagent.dev/log-path"
	labelMessagePath = "nodeagent.dev/message-path"
	labelStreams     = "nodeagent.dev/streams" // stdin, stdin-once, tty
	labelStarted     = "nodeagent.dev/started-at"
	labelFinished    = "nodeagent.dev/finished-at"
	labelExitCode    = "nodeagent.dev/exit-code"
	labelOOM         = "nodeagent.dev/oom"
	labelStartError  = "nodeagent.dev/start-error"

	// labelKeepImage protects the image's content from garbage collection while the container
	// exists, even if the image's last name is removed (containerd docs/garbage-collection.md).
	labelKeepImage = "containerd.io/gc.ref.content.image"
)

// maxLabel is the largest total length of a label's key and value in bytes (containerd pkg/labels).
const maxLabel = 4096

// groupAnnotation makes containerd's shim serve all containers of one group.
const groupAnnotation = "io.containerd.runc.v2.group"

// streams says how a container's pipes were made.
type streams struct {
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	TTY       bool `json:"tty,omitempty"`
}

func labelsOf(c runtime.ContainerConfig, imageDigest, target string) map[string]string {
	s, _ := json.Marshal(streams{c.Stdin, c.StdinOnce, c.TTY})
	labels := map[string]string{
		labelUID: string(c.Pod.UID), labelNamespace: c.Pod.Namespace, labelPod: c.Pod.Name,
		labelName: c.Name, labelAttempt: strconv.Itoa(c.Attempt), labelSandbox: c.SandboxID,
		labelImage: c.ImageRef, labelImageID: c.Image.ID, labelImageDigest: imageDigest, labelStopSignal: c.StopSignal, labelSpecHash: c.SpecHash, labelResources: c.SpecResources,
		labelLogPath: c.LogPath, labelMessagePath: c.MessagePath, labelStreams: string(s),
	}
	if target != "" {
		labels[labelKeepImage] = target
	}
	for k, v := range labels {
		if v == "" {
			delete(labels, k)
		}
	}
	return labels
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// labelText cuts a text to the length that its label can hold.
func labelText(key, text string) string { return clip.Start(text, maxLabel-len(key)) }

// fromRecord rebuilds a container from its record. State is Exited or Created, which is all that
// the labels say.
func fromRecord(record containers.Container) (runtime.PodRef, runtime.Container, streams, error) {
	l := record.Labels
	ref := runtime.PodRef{UID: types.UID(l[labelUID]), Namespace: l[labelNamespace], Name: l[labelPod]}
	c := runtime.Container{
		ID: record.ID, Name: l[labelName], SandboxID: l[labelSandbox], State: runtime.Created,
		Image: l[labelImage], ImageID: l[labelImageID], CreatedAt: record.CreatedAt,
		Recorded: runtime.Recorded{ImageDigest: cmp.Or(l[labelImageDigest], l[labelImageID]), StopSignal: l[labelStopSignal]},
		SpecHash: l[labelSpecHash], SpecResources: l[labelResources], LogPath: l[labelLogPath], MessagePath: l[labelMessagePath],
		StartError: l[labelStartError], OOMKilled: l[labelOOM] != "",
	}
	var s streams
	if v := l[labelStreams]; v != "" {
		if err := json.Unmarshal([]byte(v), &s); err != nil {
			return ref, c, s, fmt.Errorf("reading label %s of container %.12s: %w", labelStreams, c.ID, err)
		}
	}
	var err error
	if c.Attempt, err = strconv.Atoi(l[labelAttempt]); err != nil {
		return ref, c, s, fmt.Errorf("reading label %s of container %.12s: %w", labelAttempt, c.ID, err)
	}
	c.StartedAt, _ = time.Parse(time.RFC3339Nano, l[labelStarted])
	if v := l[labelFinished]; v != "" {
		c.State = runtime.Exited
		c.FinishedAt, _ = time.Parse(time.RFC3339Nano, v)
		c.ExitCode, _ = strconv.Atoi(l[labelExitCode])
	}
	return ref, c, s, nil
}

// specOf decodes the spec of a record.
func specOf(record containers.Container) (*specs.Spec, error) {
	if record.Spec == nil {
		return nil, fmt.Errorf("container %.12s has no spec", record.ID)
	}
	var s specs.Spec
	if err := json.Unmarshal(record.Spec.GetValue(), &s); err != nil {
		return nil, fmt.Errorf("reading the spec of container %.12s: %w", record.ID, err)
	}
	return &s, nil
}

// outputOf describes a container's streams to the log pump.
func (r *Runtime) outputOf(ref runtime.PodRef, c runtime.Container, s streams, sealed bool) runtime.Output {
	dir := r.ioDir(c.ID)
	out := runtime.Output{
		ID: c.ID, Stdout: dir + "/stdout", LogPath: c.LogPath, StdinOnce: s.StdinOnce, Sealed: sealed,
		LinkPath: r.linkPath(ref, c.Name, c.ID),
	}
	if s.Stdin {
		out.Stdin = dir + "/stdin"
	}
	if !s.TTY { // a terminal has one output
		out.Stderr = dir + "/stderr"
	}
	return out
}

func (r *Runtime) linkPath(ref runtime.PodRef, name, id string) string {
	if r.c.LogLinkDir == "" {
		return ""
	}
	// As kubelet's legacyLogSymlink: file names are at most 255 bytes, ".log" included.
	base := fmt.Sprintf("%s_%s_%s-%s", ref.Name, ref.Namespace, name, id)
	return r.c.LogLinkDir + "/" + clip.Start(base, 251) + ".log"
}
