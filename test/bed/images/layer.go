package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// epoch is the time of everything in an image, so that the same content has the same digest.
func epoch() time.Time { return time.Unix(1735689600, 0).UTC() } // 2025-01-01

// entry is one path of a layer.
type entry struct {
	path     string      // without a leading slash
	mode     fs.FileMode // permissions and, for folders and links, the type
	uid, gid int
	content  []byte // of a regular file
	source   string // file to copy instead of content
	link     string // target of a symbolic link
	caps     []byte // file capabilities, as the kernel keeps them
}

func dir(path string, perm fs.FileMode) entry { return entry{path: path, mode: fs.ModeDir | perm} }

func text(path, s string) entry { return entry{path: path, mode: 0o644, content: []byte(s)} }

func program(path, source string) entry { return entry{path: path, mode: 0o755, source: source} }

func symlink(path, target string) entry {
	return entry{path: path, mode: fs.ModeSymlink | 0o777, link: target}
}

// blob is a file of a layout: its digest names it.
type blob struct {
	path   string
	digest string // sha256:…
	size   int64
}

// writeLayer writes entries as an uncompressed layer into folder, named after its digest, and
// returns it. Of two entries of one path the last counts.
func writeLayer(ctx context.Context, folder string, entries []entry) (blob, error) {
	last := map[string]entry{}
	for _, e := range entries {
		last[e.path] = e
	}
	paths := make([]string, 0, len(last))
	for p := range last {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	f, err := os.CreateTemp(folder, "layer-")
	if err != nil {
		return blob{}, fmt.Errorf("making layer file: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	h := sha256.New()
	w := tar.NewWriter(io.MultiWriter(f, h))
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return blob{}, errors.Join(err, f.Close())
		}
		if err := writeEntry(w, last[p]); err != nil {
			return blob{}, errors.Join(fmt.Errorf("adding %q to a layer: %w", p, err), f.Close())
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		return blob{}, fmt.Errorf("ending a layer: %w", err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	path := filepath.Join(folder, sum)
	if err := os.Rename(f.Name(), path); err != nil {
		return blob{}, fmt.Errorf("keeping a layer: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return blob{}, fmt.Errorf("measuring a layer: %w", err)
	}
	return blob{path: path, digest: "sha256:" + sum, size: info.Size()}, nil
}

func writeEntry(w *tar.Writer, e entry) error {
	h := &tar.Header{Name: e.path, Mode: int64(e.mode.Perm()), Uid: e.uid, Gid: e.gid, ModTime: epoch(), Format: tar.FormatPAX}
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if e.mode&bit != 0 {
			h.Mode |= value
		}
	}
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
		return w.WriteHeader(h)
	case e.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		return w.WriteHeader(h)
	}
	if e.caps != nil {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(e.caps)}
	}
	content := e.content
	if e.source != "" {
		b, err := os.ReadFile(e.source)
		if err != nil {
			return err
		}
		content = b
	}
	h.Size = int64(len(content))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// treeEntries lists what is below root and wanted, device nodes excepted: a runtime makes its own.
func treeEntries(root string, wanted func(path string) bool) ([]entry, error) {
	var out []entry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		if !d.IsDir() && !wanted(rel) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e, ok, err := fromFile(path, rel, info)
		if err == nil && ok {
			out = append(out, e)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing tree %q: %w", root, err)
	}
	return out, nil
}

func fromFile(path, rel string, info fs.FileInfo) (entry, bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return entry{}, false, fmt.Errorf("looking at %q: %w", path, err)
	}
	e := entry{path: rel, mode: info.Mode(), uid: int(st.Uid), gid: int(st.Gid)}
	switch {
	case info.IsDir():
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return entry{}, false, err
		}
		e.link = target
	case info.Mode().IsRegular():
		e.source = path
		buf := make([]byte, 64)
		if n, err := unix.Lgetxattr(path, "security.capability", buf); err == nil {
			e.caps = buf[:n]
		}
	default:
		return entry{}, false, nil
	}
	return e, true, nil
}
