package podplan

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// EnsureImage finds the container's image or pulls it, by its pull policy.
type EnsureImage struct {
	Container, Ref string
	Attempt        int
	Pull           corev1.PullPolicy
}

// reasonPull is the reason of a failed pull that names none itself.
const reasonPull = "ErrImagePull"

// maxPull is far beyond the moment at which the runtime ends a pull whose registry sends nothing
// (imagePullProgressDeadline).
const maxPull = time.Hour

// String is one line.
func (a EnsureImage) String() string {
	return fmt.Sprintf("ensure image %s for %s attempt %d (%s)", a.Ref, a.Container, a.Attempt, a.Pull)
}

// Key is one container's image.
func (a EnsureImage) Key() string { return "image/" + a.Container }

// Policy lets a pull take long, and cancels it when the pod must end.
func (EnsureImage) Policy() Policy {
	return Policy{Operation: "pull_image", Limit: maxPull, Cancel: CancelAtEnd}
}

func (a EnsureImage) complete(s *State, r ActionResult, now time.Time) {
	i := s.Images[a.Container]
	if i.Ref != a.Ref {
		i = ImageState{}
	}
	i.Ref, i.Attempt, i.ImageID = a.Ref, a.Attempt, r.ImageID
	i.Failure = i.Failure.after(r.Err, reasonPull, now)
	s.Images = s.Images.with(a.Container, i)
}

func (a EnsureImage) simulate(h *simulation) { h.result.ImageID = "sha256:" + a.Ref }
