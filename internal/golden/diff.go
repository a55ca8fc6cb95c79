package golden

import "strings"

// LineDiff renders the difference of two texts line by line: unchanged lines near a change with two
// spaces, removed ones with "- ", added ones with "+ ".
func LineDiff(want, got string) string {
	a, b := strings.Split(strings.TrimRight(want, "\n"), "\n"), strings.Split(strings.TrimRight(got, "\n"), "\n")
	pre := 0
	for pre < len(a) && pre < len(b) && a[pre] == b[pre] {
		pre++
	}
	post := 0
	for post < len(a)-pre && post < len(b)-pre && a[len(a)-1-post] == b[len(b)-1-post] {
		post++
	}
	var out strings.Builder
	const context = 2
	if pre > context {
		out.WriteString("  …\n")
	}
	writeLines(&out, "  ", a[max(0, pre-context):pre])
	middle(&out, a[pre:len(a)-post], b[pre:len(b)-post])
	tail := a[len(a)-post:]
	writeLines(&out, "  ", tail[:min(context, len(tail))])
	if len(tail) > context {
		out.WriteString("  …\n")
	}
	return out.String()
}

// middle prints an edit script from the longest common subsequence. Texts too long for the
// quadratic table are printed whole, one after the other.
func middle(out *strings.Builder, a, b []string) {
	if len(a)*len(b) > 4_000_000 {
		writeLines(out, "- ", a)
		writeLines(out, "+ ", b)
		return
	}
	common := lcs(a, b)
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			writeLines(out, "  ", a[i:i+1])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			writeLines(out, "- ", a[i:i+1])
			i++
		default:
			writeLines(out, "+ ", b[j:j+1])
			j++
		}
	}
}

// lcs returns, for each pair of suffixes, the length of their longest common subsequence.
func lcs(a, b []string) [][]int {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	return table
}

func writeLines(out *strings.Builder, prefix string, lines []string) {
	for _, line := range lines {
		out.WriteString(prefix)
		out.WriteString(line)
		out.WriteByte('\n')
	}
}
