package debian

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// keep is how long a cached file may stay unused before Used removes it.
const keep = 14 * 24 * time.Hour

// Used marks a cached file as used now, and removes files in the same folder that match the pattern
// and have not been used for two weeks: every change of an input leaves a large file behind.
func Used(path, pattern string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("marking %q as used: %w", path, err)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), pattern))
	if err != nil {
		return fmt.Errorf("listing cached files: %w", err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && f != path && now.Sub(info.ModTime()) > keep {
			if err := os.Remove(f); err != nil {
				return fmt.Errorf("removing what is cached and unused: %w", err)
			}
		}
	}
	return nil
}
