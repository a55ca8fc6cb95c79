package debian

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUsedRemovesOldRelatives(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"disk-mine": 30 * 24 * time.Hour, "disk-old": 15 * 24 * time.Hour, "disk-young": time.Hour, "other-old": 30 * 24 * time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Used(filepath.Join(dir, "disk-mine"), "disk-*"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"disk-mine": true, "disk-old": false, "disk-young": true, "other-old": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v", name, err == nil)
		}
	}
}

func TestLockTakesTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub/lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Lock(short, path); err == nil {
		t.Error("the lock was given twice")
	}
	unlock()
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestKeyIgnoresOrder(t *testing.T) {
	if Key([]string{"a", "b"}) != Key([]string{"b", "a"}) || Key([]string{"a"}) == Key([]string{"b"}) {
		t.Error("a key must name a set")
	}
}
