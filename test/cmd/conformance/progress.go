package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// progress reads the suite's output and reports its progress from time to time.
type progress struct {
	out     io.Writer
	stop    chan struct{}
	stopped sync.WaitGroup

	mu             sync.Mutex
	line           []byte // the last, unfinished line
	total          string // "Will run N of M specs"
	passed, failed int
}

// newProgress starts the reporting; end stops it.
func newProgress(out io.Writer) *progress {
	p := &progress{out: out, stop: make(chan struct{})}
	p.stopped.Go(func() {
		t := time.NewTicker(30 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-t.C:
				p.say()
			}
		}
	})
	return p
}

func (p *progress) end() {
	close(p.stop)
	p.stopped.Wait()
	p.say()
}

func (p *progress) say() {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The last line grows by one • at a time as long as nothing fails.
	_, _ = fmt.Fprintf(p.out, "%s: %d passed, %d failed\n", p.total, p.passed+bytes.Count(p.line, []byte(bullet)), p.failed)
}

// Write counts specs: ginkgo prints one • for a spec that passed, and a line that begins with "•
// [FAILED]" (or another result) for one that did not.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = append(p.line, b...)
	for {
		i := bytes.IndexByte(p.line, '\n')
		if i < 0 {
			return len(b), nil
		}
		p.take(p.line[:i])
		p.line = p.line[i+1:]
	}
}

const bullet = "•"

func (p *progress) take(line []byte) {
	if bytes.HasPrefix(line, []byte("Will run ")) {
		p.total = string(line)
		return
	}
	bullets := bytes.Count(line, []byte(bullet))
	for _, end := range []string{"FAILED", "PANICKED", "TIMEDOUT", "INTERRUPTED"} {
		if bytes.Contains(line, []byte(bullet+" ["+end+"]")) {
			p.failed++
			bullets--
		}
	}
	p.passed += bullets
}
