package pump

import (
	"os"
	"syscall"
)

// maxFreePipes is how many pipes are kept for reuse; each has two descriptors.
const maxFreePipes = 8

// peekPipe is one of the pump's own pipes, empty between uses.
type peekPipe struct{ r, w *os.File }

func (p *peekPipe) close() {
	_ = p.r.Close()
	_ = p.w.Close()
}

func (p *Pump) getPipe() (*peekPipe, error) {
	p.mu.Lock()
	if n := len(p.pipes); n > 0 {
		free := p.pipes[n-1]
		p.pipes = p.pipes[:n-1]
		p.mu.Unlock()
		return free, nil
	}
	p.mu.Unlock()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	return &peekPipe{os.NewFile(uintptr(fds[0]), "peek"), os.NewFile(uintptr(fds[1]), "peek")}, nil
}

// putPipe takes an empty pipe back; nil is ignored.
func (p *Pump) putPipe(free *peekPipe) {
	if free == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pipes) < maxFreePipes {
		p.pipes = append(p.pipes, free)
		return
	}
	free.close()
}
