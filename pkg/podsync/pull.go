package podsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// PullerConfig of a Puller.
type PullerConfig struct {
	Images  images
	Secrets PullSecrets
	Events  Events
	// Parallel is the most pulls at a time, PerRegistry the most from one registry; 0: no limit.
	Parallel, PerRegistry int
	// QPS and Burst limit how often pulls begin; QPS 0: no limit.
	QPS   float32
	Burst int
	Now   func() time.Time
}

// Puller makes images ready for containers. It pulls once what several pods need with the same
// credentials.
type Puller struct {
	config PullerConfig
	places *pullPlaces
	limit  *rate.Limiter

	mu    sync.Mutex
	pulls map[string]*pull // running, by reference and credentials
}

// pull is one running pull. It is cancelled when nobody waits for it any more.
type pull struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{}
	image   runtime.Image
	took    time.Duration
	err     error
}

// NewPuller makes a Puller.
func NewPuller(c PullerConfig) (*Puller, error) {
	if c.Images == nil || c.Secrets == nil || c.Events == nil || c.Now == nil {
		return nil, errors.New("making the image puller: Images, Secrets, Events and Now are required")
	}
	p := &Puller{
		config: c, pulls: make(map[string]*pull), places: newPullPlaces(c.Parallel, c.PerRegistry), limit: rate.NewLimiter(rate.Inf, 0),
	}
	if c.QPS > 0 {
		p.limit = rate.NewLimiter(rate.Limit(c.QPS), max(1, c.Burst))
	}
	return p, nil
}

// Ensure returns the image, pulled if the policy and the store ask for it. Its errors have
// kubelet's reasons: InvalidImageName, ErrImageNeverPull, ImageInspectError, ErrImagePull,
// RegistryUnavailable.
func (p *Puller) Ensure(ctx context.Context, pod *corev1.Pod, a podplan.EnsureImage) (runtime.Image, error) {
	tell := func(eventType, reason, message string) {
		if !errors.Is(ctx.Err(), context.Canceled) {
			p.config.Events.Event(podspec.ContainerReference(pod, a.Container), eventType, reason, message)
		}
	}
	if !isImageID(a.Ref) {
		if _, err := reference.ParseNormalizedNamed(a.Ref); err != nil {
			err = fmt.Errorf("Failed to apply default image tag %q: couldn't parse image name %q: %w", a.Ref, a.Ref, err) //nolint:staticcheck // kubelet's words, which people search for
			tell(corev1.EventTypeWarning, "InspectFailed", err.Error())
			return runtime.Image{}, p.failed(tell, "InvalidImageName", err)
		}
	}
	if a.Pull != corev1.PullAlways {
		image, err := p.config.Images.Image(ctx, a.Ref)
		switch {
		case err == nil:
			tell(corev1.EventTypeNormal, "Pulled",
				fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", a.Ref))
			return image, nil
		case !errors.Is(err, runtime.ErrNotFound):
			err = fmt.Errorf("Failed to inspect image %q: %w", a.Ref, err) //nolint:staticcheck // kubelet's words
			tell(corev1.EventTypeWarning, "InspectFailed", err.Error())
			return runtime.Image{}, p.failed(tell, "ImageInspectError", err)
		case a.Pull == corev1.PullNever:
			err = fmt.Errorf("Container image %q is not present with pull policy of Never", a.Ref) //nolint:staticcheck // kubelet's words
			tell(corev1.EventTypeWarning, "ErrImageNeverPull", err.Error())
			return runtime.Image{}, p.failed(tell, "ErrImageNeverPull", err)
		}
	}
	return p.fetch(ctx, pod, a, tell)
}

// failed announces that a container cannot have its image, and returns the error with its reason.
func (p *Puller) failed(tell func(eventType, reason, message string), reason string, err error) error {
	err = podspec.WithReason(reason, err)
	tell(corev1.EventTypeWarning, "Failed", "Error: "+podspec.ReasonOf(err, reason))
	return err
}

// fetch pulls, together with others that need the same.
func (p *Puller) fetch(ctx context.Context, pod *corev1.Pod, a podplan.EnsureImage, tell func(eventType, reason, message string)) (runtime.Image, error) {
	began := p.config.Now()
	credentials, missing := p.config.Secrets.Credentials(ctx, pod, a.Ref)
	if len(missing) > 0 {
		p.config.Events.Event(podspec.Reference(pod), corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	tell(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", a.Ref))
	done := p.join(ctx, a.Ref, credentials)
	if done.err != nil {
		tell(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", a.Ref, done.err))
		return runtime.Image{}, p.failed(tell, "ErrImagePull", fmt.Errorf("pulling image %q: %w", a.Ref, done.err))
	}
	tell(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		a.Ref, done.took.Truncate(time.Millisecond), p.config.Now().Sub(began).Truncate(time.Millisecond), done.image.Size))
	return done.image, nil
}

// pulled is the end of a pull, for one who waited for it.
type pulled struct {
	image runtime.Image
	took  time.Duration
	err   error
}

// join waits for the pull of ref with these credentials, and starts it if none runs. The pull goes
// on while anyone waits for it.
func (p *Puller) join(ctx context.Context, ref string, credentials []runtime.Credentials) pulled {
	key := pullKey(ref, credentials)
	p.mu.Lock()
	u := p.pulls[key]
	if u == nil {
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		u = &pull{cancel: cancel, done: make(chan struct{})}
		p.pulls[key] = u
		go func() {
			defer cancel()
			image, took, err := p.pull(shared, ref, credentials)
			p.mu.Lock()
			defer p.mu.Unlock()
			u.image, u.took, u.err = image, took, err
			if p.pulls[key] == u {
				delete(p.pulls, key)
			}
			close(u.done)
		}()
	}
	u.waiting++
	p.mu.Unlock()

	select {
	case <-u.done:
		return pulled{u.image, u.took, u.err}
	case <-ctx.Done():
	}
	p.mu.Lock()
	last := false
	if u.waiting--; u.waiting == 0 {
		last = true
		if p.pulls[key] == u {
			delete(p.pulls, key) // a later one starts a pull of its own
		}
		u.cancel()
	}
	p.mu.Unlock()
	if last {
		<-u.done // it leaves nothing behind
	}
	return pulled{err: ctx.Err()}
}

// pull waits for a place and pulls.
func (p *Puller) pull(ctx context.Context, ref string, credentials []runtime.Credentials) (runtime.Image, time.Duration, error) {
	leave, err := p.places.enter(ctx, registryOf(ref))
	if err != nil {
		return runtime.Image{}, 0, err
	}
	defer leave()
	if err := p.limit.Wait(ctx); err != nil {
		return runtime.Image{}, 0, fmt.Errorf("waiting for registryPullQPS: %w", err)
	}
	began := p.config.Now()
	image, err := p.config.Images.Pull(ctx, ref, credentials)
	return image, p.config.Now().Sub(began), err
}

// registryOf is the host that an image comes from, "" for what has none.
func registryOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// pullKey tells pulls apart: that one pod may pull an image does not give it to another.
func pullKey(ref string, credentials []runtime.Credentials) string {
	text, err := json.Marshal(credentials)
	if err != nil {
		text = fmt.Appendf(nil, "%v", credentials)
	}
	sum := sha256.Sum256(text)
	return ref + "@" + hex.EncodeToString(sum[:])
}

// isImageID says that a reference is an image id, not a name.
func isImageID(ref string) bool {
	digits, found := strings.CutPrefix(ref, "sha256:")
	_, err := hex.DecodeString(digits)
	return (found || len(digits) == 64) && err == nil && len(digits) == 64
}
