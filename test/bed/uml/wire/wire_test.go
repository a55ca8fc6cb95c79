package wire

import (
	"bytes"
	"testing"
)

func TestRequestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteRequest(&buf, Request{Token: "t", Args: []string{"echo", "a b"}, Env: []string{"A=b"}}); err != nil {
		t.Fatal(err)
	}
	q, err := ReadRequest(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if q.Token != "t" || len(q.Args) != 2 || q.Args[1] != "a b" || q.Env[0] != "A=b" {
		t.Errorf("got %+v", q)
	}
}

func TestExitCodeRoundTrip(t *testing.T) {
	for _, want := range []int{0, 1, 127, 137, -1} {
		got, err := ParseExitCode(ExitCode(want))
		if err != nil || got != want {
			t.Errorf("got %d, %v; want %d", got, err, want)
		}
	}
	if _, err := ParseExitCode([]byte{1}); err == nil {
		t.Error("a short exit code was taken")
	}
}

func TestWriteRefusesTooLargeAFrame(t *testing.T) {
	if err := Write(&bytes.Buffer{}, KindStdin, make([]byte, MaxFrame+1)); err == nil {
		t.Error("no error")
	}
}

func FuzzRead(f *testing.F) {
	var ok bytes.Buffer
	_ = Write(&ok, KindStdout, []byte("hello"))
	f.Add(ok.Bytes())
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, p, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(&again, k, p); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%x read and written is %x", b, again.Bytes())
		}
	})
}
