package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// reportOf is a JSON report with specs given as "state name[: failure]".
func reportOf(t *testing.T, specs ...string) Report {
	t.Helper()
	var parts []string
	for _, s := range specs {
		state, name, _ := strings.Cut(s, " ")
		name, failure, _ := strings.Cut(name, ": ")
		parts = append(parts, fmt.Sprintf(`{"ContainerHierarchyTexts":["[sig-node] Pods"],"LeafNodeType":"It","LeafNodeText":%q,"State":%q,"RunTime":2000000000,
			"Failure":{"Message":%q,"Location":{"FileName":"/a/b/pods.go","LineNumber":7}}}`, name, state, failure))
	}
	parts = append(parts, `{"LeafNodeType":"ReportAfterSuite","State":"passed"}`)
	r, err := ParseReport(strings.NewReader(`[{"SuitePath":"/x","SpecReports":[` + strings.Join(parts, ",") + `]}]`))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(specs []Spec) string {
	var out []string
	for _, s := range specs {
		out = append(out, strings.TrimPrefix(s.Name, "[sig-node] Pods "))
	}
	return strings.Join(out, ",")
}

func TestJudge(t *testing.T) {
	r := reportOf(t, "passed old", "passed new", "failed bad: expected\nmore", "timedout slow: x", "skipped filtered", "skipped lacking: no gpu", "pending later", "panicked broke: nil")
	v := Judge([]string{"[sig-node] Pods old", "[sig-node] Pods slow", "[sig-node] Pods not-run"}, r)
	for what, got := range map[string][2]string{
		"passed":    {names(v.Passed), "new,old"},
		"failed":    {names(v.Failed), "bad,broke,slow"},
		"skipped":   {names(v.Skipped), "lacking"},
		"regressed": {names(v.Regressed), "slow"},
		"new":       {names(v.New), "new"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %s, want %s", what, got[0], got[1])
		}
	}
	if v.OK() {
		t.Error("a regression is fine")
	}
	if got := v.Failed[0].Failure; got != "expected; more (pods.go:7)" {
		t.Errorf("failure is %q", got)
	}
	if s := v.Summary(); !strings.Contains(s, "2 of 5 specs passed, 3 failed, 1 skipped; 1 newly passing, 1 regressed") {
		t.Errorf("summary is %s", s)
	}
}

func TestVerdictOK(t *testing.T) {
	if !Judge(nil, reportOf(t, "passed a", "failed b: x")).OK() {
		t.Error("the failure of a spec that is not listed is taken for a regression")
	}
	if Judge(nil, reportOf(t, "skipped a")).OK() {
		t.Error("a run of nothing is fine")
	}
	r, err := ParseReport(strings.NewReader(`[{"SpecReports":[{"LeafNodeType":"It","State":"passed","LeafNodeText":"a"},{"LeafNodeType":"SynchronizedBeforeSuite","State":"failed","Failure":{"Message":"no nodes"}}]}]`))
	if err != nil || len(r.Suite) != 1 || !strings.Contains(r.Suite[0], "no nodes") || Judge(nil, r).OK() {
		t.Errorf("a failed set-up: %+v, %v", r, err)
	}
}

func TestListOnlyGrows(t *testing.T) {
	listed, err := ParseList(strings.NewReader("# comment\nb\n\na\nb\n"))
	if err != nil || !slices.Equal(listed, []string{"a", "b"}) {
		t.Fatalf("got %q, %v", listed, err)
	}
	merged := Verdict{New: []Spec{{Name: "aa"}}, Regressed: []Spec{{Name: "b"}}}.Merge(listed)
	if !slices.Equal(merged, []string{"a", "aa", "b"}) {
		t.Errorf("got %q", merged)
	}
	var out strings.Builder
	if err := WriteList(&out, "one\ntwo", merged); err != nil || out.String() != "# one\n# two\na\naa\nb\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add(`[{"SpecReports":[{"LeafNodeType":"It","State":"failed","LeafNodeText":"a","Failure":{"Message":"m\n\n"}}]}]`)
	f.Fuzz(func(_ *testing.T, s string) {
		r, err := ParseReport(strings.NewReader(s))
		if err == nil {
			_ = Judge(nil, r).Summary()
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("# x\na b\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseList(strings.NewReader(s))
		if err != nil {
			return
		}
		var out strings.Builder
		if err := WriteList(&out, "c", list); err != nil {
			t.Fatal(err)
		}
		again, err := ParseList(strings.NewReader(out.String()))
		if err != nil || !slices.Equal(list, again) {
			t.Errorf("%q became %q, %v", list, again, err)
		}
	})
}
