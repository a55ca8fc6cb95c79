package containerd

import (
	"fmt"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
)

// Handler says how containerd runs the containers of one RuntimeClass handler.
type Handler struct {
	Type   string // containerd's runtime type, default io.containerd.runc.v2
	Binary string // OCI runtime program, default runc
	Root   string // state folder of the OCI runtime; default containerd's
}

// HandlerNames lists the RuntimeClass handlers that pods may name, without "".
func (r *Runtime) HandlerNames() []string {
	var names []string
	for name := range r.c.Handlers {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// runtimeInfo tells containerd how to run containers of a RuntimeClass handler.
func (r *Runtime) runtimeInfo(name string) (containers.RuntimeInfo, error) {
	h, ok := r.c.Handlers[name]
	if !ok && name != "" {
		return containers.RuntimeInfo{}, fmt.Errorf("no runtime handler %q is configured: name it in containerd.handlers of NodeAgentConfiguration", name)
	}
	setDefault(&h.Type, runcType+"v2")
	if !strings.HasPrefix(h.Type, runcType) {
		// Other shims refuse runc's options and have their own configuration.
		if h.Binary != "" {
			return containers.RuntimeInfo{}, fmt.Errorf("runtime handler %q: shim type %q takes no binary (only %s* does): remove binary from containerd.handlers",
				name, h.Type, runcType)
		}
		return containers.RuntimeInfo{Name: h.Type}, nil
	}
	options, err := typeurl.MarshalAny(&runcoptions.Options{BinaryName: h.Binary, Root: h.Root, SystemdCgroup: r.c.SystemdCgroup})
	if err != nil {
		return containers.RuntimeInfo{}, err
	}
	return containers.RuntimeInfo{Name: h.Type, Options: options}, nil
}

// runcType is the prefix of shim types that run runc, or a program with runc's command line.
const runcType = "io.containerd.runc."
