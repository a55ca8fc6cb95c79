package render

import (
	"fmt"
	"io"
	"strings"
)

// PrintPods writes pods for people: what is known of each as comments, then the OCI spec of each
// container as JSON. The same pods give the same bytes.
func PrintPods(w io.Writer, pods []Pod) error {
	var b strings.Builder
	for i, p := range pods {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "# Pod %s/%s, %s\n# uid %s\n", p.Namespace, p.Name, p.Where, p.UID)
		for _, n := range p.Notes {
			fmt.Fprintf(&b, "# note: %s\n", n)
		}
		b.WriteString("#\n# What would be done on an empty host; a step begins when the one before has ended, its actions side by side:\n")
		for i, s := range p.Steps {
			for j, action := range s {
				step := ""
				if j == 0 {
					step = fmt.Sprintf("%d.", i+1)
				}
				fmt.Fprintf(&b, "# %4s %s\n", step, action)
			}
		}
		for _, c := range p.Containers {
			text, err := encode(c.Spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "#\n# Container %s, id %s\n# log %s\n%s", c.Name, c.ID, c.LogPath, text)
		}
	}
	return write(w, b.String())
}

// PrintPodsJSON writes pods as one JSON list.
func PrintPodsJSON(w io.Writer, pods []Pod) error {
	text, err := encode(pods)
	if err != nil {
		return err
	}
	return write(w, string(text))
}

func write(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("writing what was rendered: %w", err)
	}
	return nil
}
