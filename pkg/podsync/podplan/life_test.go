package podplan_test

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// TestLife plays the lives of pods: in.yaml is the pod, in.life what happens to it, want.life every
// action and every change of its status with the time since it came. The commands of in.life are
// the cases of (*player).play.
func TestLife(t *testing.T) {
	golden.Run(t, "testdata/life/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(files["in.yaml"], &pod); err != nil {
			t.Fatalf("reading in.yaml: %v", err)
		}
		pod.Name, pod.Namespace, pod.UID, pod.Generation = "p", "ns", "uid", 1
		var out, statuses bytes.Buffer
		h := newHost(&pod, func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) })
		p := player{host: h, statuses: &statuses}
		script := string(files["in.life"])
		// else what comes before is the state of things at first
		begun := !strings.Contains("\n"+script, "\nstart\n")
		if begun {
			h.rest()
		}
		for line := range strings.Lines(script) {
			line = strings.TrimSpace(line)
			fmt.Fprintf(&out, "> %s\n", line)
			if err := p.play(line); err != nil {
				t.Fatalf("playing %q: %v", line, err)
			}
			if begun = begun || line == "start"; begun {
				h.rest()
			}
		}
		if h.plan.Done {
			out.WriteString("done\n")
		}
		for _, w := range h.wrong {
			t.Error(w)
		}
		got := map[string][]byte{"want.life": out.Bytes()}
		if statuses.Len() > 0 {
			got["want.status.yaml"] = statuses.Bytes()
		}
		return got
	})
}

// player carries out commands.
type player struct {
	*host
	statuses *bytes.Buffer
}

func (p *player) play(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	name, rest2, _ := strings.Cut(rest, " ")
	switch word {
	case "wait":
		d, err := time.ParseDuration(rest)
		p.advance(d)
		return err
	case "exit", "instantly":
		return p.exits(word, name, rest2)
	case "probe":
		return p.probe(name, rest2)
	case "fail": // fail ACTION... => REASON: message
		return p.fail(rest)
	case "heal":
		p.failures = nil
	case "hold":
		p.held = append(p.held, rest)
	case "release":
		p.held = nil
	case "created":
		p.createSome()
	case "stubborn":
		p.stubborn[rest] = true
	default:
		return p.change(word, name, rest2)
	}
	return nil
}

// change is what happens to the pod as a whole.
func (p *player) change(word, first, rest string) error {
	switch word {
	case "delete":
		grace, err := strconv.ParseInt(first, 10, 64)
		p.deletePod(grace)
		return err
	case "gone":
		p.want.Pod = nil
	case "termination":
		p.want.Termination = &podspec.Termination{Reason: first, Message: rest}
		if first == "Evicted" {
			p.want.Termination.Disruption = "TerminationByKubelet"
		}
	case "image":
		p.edit(func(pod *corev1.Pod) {
			for i := range pod.Spec.Containers {
				if pod.Spec.Containers[i].Name == first {
					pod.Spec.Containers[i].Image = rest
				}
			}
		})
	case "resize": // resize CONTAINER SIZES [/ CONTAINER SIZES …]
		asked := map[string]corev1.ResourceRequirements{}
		for part := range strings.SplitSeq(first+" "+rest, " / ") {
			name, sizes, _ := strings.Cut(part, " ")
			r, err := resources(sizes)
			if err != nil {
				return err
			}
			asked[name] = r
		}
		p.ask(asked)
	case "headroom":
		return p.setHeadroom(strings.TrimSpace(first + " " + rest))
	case "debug":
		p.edit(func(pod *corev1.Pod) {
			var e corev1.EphemeralContainer
			e.Name, e.Image = first, rest
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, e)
		})
	case "gate":
		p.want.Reported.Conditions = append(p.want.Reported.Conditions, corev1.PodCondition{
			Type: corev1.PodConditionType(first), Status: corev1.ConditionStatus(rest), LastTransitionTime: metav1.NewTime(p.now),
		})
	case "longest": // back-off of a crash loop
		var err error
		p.want.CrashMax, err = time.ParseDuration(first)
		return err
	case "start":
	case "lose": // the sandbox
		p.loseSandbox()
	case "restart": // the agent
		p.restartAgent()
	case "reboot":
		p.reboot()
	case "status":
		return p.showStatus()
	default:
		return errors.New("unknown command")
	}
	return nil
}

func (p *player) exits(word, name, codeText string) error {
	code, err := strconv.Atoi(codeText)
	if word == "instantly" {
		p.instant[name] = code
		return err
	}
	c := p.observed.Runtime.Latest(name)
	if c == nil || c.State != runtime.Running {
		return errors.New("it does not run")
	}
	p.end(c, code)
	return err
}

func (p *player) probe(name, rest string) error {
	c := p.observed.Runtime.Latest(name)
	if c == nil || c.State != runtime.Running {
		return errors.New("it does not run")
	}
	kind, result, _ := strings.Cut(rest, " ")
	r := p.observed.Probes[c.ID]
	switch kind {
	case "startup":
		r.Startup = podspec.ProbeResult(result)
	case "liveness":
		r.Liveness = podspec.ProbeResult(result)
	case "readiness":
		r.Readiness = podspec.ProbeResult(result)
	default:
		return errors.New("unknown probe")
	}
	p.observed.Probes[c.ID] = r
	return nil
}

func (p *player) fail(text string) error {
	prefix, why, ok := strings.Cut(text, " => ")
	if !ok {
		return errors.New("no =>")
	}
	reason, message, ok := strings.Cut(why, ": ")
	err := errors.New(message)
	if !ok {
		err = errors.New(why)
	} else {
		err = &podspec.ReasonError{Reason: reason, Err: err}
	}
	p.failures = append(p.failures, failure{prefix: prefix, err: err})
	return nil
}

func (p *player) showStatus() error {
	data, err := yaml.Marshal(p.status)
	fmt.Fprintf(p.statuses, "# at %s\n%s", p.now.Sub(p.start), data)
	return err
}

// summary is a status on one line.
func summary(s corev1.PodStatus) string {
	var out strings.Builder
	out.WriteString(string(s.Phase))
	if s.Reason != "" {
		fmt.Fprintf(&out, " (%s: %s)", s.Reason, s.Message)
	}
	for _, c := range s.Conditions {
		if c.Status == corev1.ConditionTrue && c.Type != corev1.PodScheduled {
			fmt.Fprintf(&out, " %s", c.Type)
			if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
				fmt.Fprintf(&out, "(%d %s %q)", c.ObservedGeneration, c.Reason, c.Message)
			}
		}
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&out, "; %s#%d %s", c.Name, c.RestartCount, stateText(c.State))
			if t := c.LastTerminationState.Terminated; t != nil {
				fmt.Fprintf(&out, " last %s %d", t.Reason, t.ExitCode)
			}
			if c.Started != nil && *c.Started && !c.Ready {
				out.WriteString(" started")
			}
			if c.Ready {
				out.WriteString(" ready")
			}
		}
	}
	return out.String()
}

func stateText(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil && s.Waiting.Message != "":
		return fmt.Sprintf("%s (%s)", s.Waiting.Reason, s.Waiting.Message)
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("%s %d", s.Terminated.Reason, s.Terminated.ExitCode)
	}
	return "nothing"
}
