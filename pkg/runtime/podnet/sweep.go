package podnet

import "strings"

// Attached returns the sandboxes that have or may have a network and whose namespaces lie below a
// folder, mapped to the paths of their namespaces. It finds them without the agent's own records.
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
