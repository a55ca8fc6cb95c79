package hostpath_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/hostpath"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func at(path string, kind corev1.HostPathType) *corev1.Volume {
	return &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func TestSuite(t *testing.T) {
	volumetest.Run(t, volumetest.Case{Plugin: hostpath.Plugin{}, Pod: &corev1.Pod{}, Volume: at(t.TempDir(), corev1.HostPathDirectory)})
}

func TestTypes(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "socket")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for i, c := range []struct {
		path string
		kind corev1.HostPathType
		want string // error, "" for none
	}{
		{file, "", ""},
		{file, "File", ""},
		{file, "FileOrCreate", ""},
		{file, "Directory", "hostPath type check failed: " + file + " is not a directory"},
		{dir, "DirectoryOrCreate", ""},
		{dir, "FileOrCreate", "hostPath type check failed: " + dir + " is not a file"},
		{socket, "Socket", ""},
		{"/dev/null", "CharDevice", ""},
		{"/dev/null", "BlockDevice", "hostPath type check failed: /dev/null is not a block device"},
		{filepath.Join(dir, "no"), "Directory", "hostPath type check failed: " + filepath.Join(dir, "no") + " is not a directory: it does not exist"},
		{filepath.Join(dir, "no"), "Nonsense", "hostPath type check failed: " + filepath.Join(dir, "no") + " is not Nonsense: it does not exist"},
		{filepath.Join(dir, "new/dir"), "DirectoryOrCreate", ""},
		{filepath.Join(dir, "new/file"), "FileOrCreate", ""},
		{filepath.Join(dir, "unset"), "", ""},
	} {
		_, err := hostpath.Plugin{}.Mount(context.Background(), volume.Request{Volume: at(c.path, c.kind)})
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || (err != nil && got != c.want) {
			t.Errorf("%d: %s as %q: got %v, want %q", i, c.path, c.kind, err, c.want)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "new/file")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the file was not made: %v", err)
	}
}
