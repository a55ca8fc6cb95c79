package podnet

import "strings"

// Attached are the sandboxes with a network, or that may have one, whose namespaces are below a
// folder: those of one agent, also when its own records are gone. The value is the path of the
// namespace.
func (n *Network) Attached(below string) (map[string]string, error) {
	all, err := n.attachments("", "")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, a := range all {
		if strings.HasPrefix(a.NetNS, strings.TrimSuffix(below, "/")+"/") {
			found[a.ContainerID] = a.NetNS
		}
	}
	return found, nil
}
