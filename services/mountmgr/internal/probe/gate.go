package probe

import (
	"context"
	"sync"
	"time"
)

// hangGrace is how long a killed process may take to end before its mount
// counts as one that does not answer.
const hangGrace = time.Second

// gates lets one usage process of each mount run at a time: a mount that hangs
// must not use up the processes of all.
type gates struct {
	mu      sync.Mutex
	running map[string]*flight
}

// flight is a process and those who wait for its answer.
type flight struct {
	*process
	cancel context.CancelFunc
	// waiting is how many wait; the process is killed when none does. -1 when
	// it was. It is under the lock of the gates.
	waiting int
	// hung is closed when the process was killed and does not end, gone when
	// another may be started.
	hung, gone chan struct{}
}

func (g *gates) usage(ctx context.Context, prober *Prober, mount, path string) (Usage, error) {
	for {
		joined, joins, err := g.join(ctx, prober, mount, path)
		if err != nil {
			return Usage{}, err
		}
		if joins {
			var usage Usage
			err := joined.answer(ctx, &usage)
			if g.leave(joined) {
				prober.observe(err)
			}
			return usage, err
		}
		select {
		case <-joined.gone:
		case <-joined.hung:
			return Usage{}, silent(path)
		case <-ctx.Done():
			return Usage{}, silent(path)
		}
	}
}

// join returns the mount's flight, a new one if it has none, and whether its
// answer will be that for path.
func (g *gates) join(ctx context.Context, prober *Prober, mount, path string) (*flight, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if present := g.running[mount]; present != nil {
		if present.path != path || present.waiting < 0 {
			return present, false, nil
		}
		present.waiting++
		return present, true, nil
	}
	// It lives as long as somebody waits, which need not be this caller.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	started, err := prober.start(life, ask("usage", path))
	if err != nil {
		cancel()
		return nil, false, err
	}
	made := &flight{process: started, cancel: cancel, waiting: 1, hung: make(chan struct{}), gone: make(chan struct{})}
	if g.running == nil {
		g.running = make(map[string]*flight)
	}
	g.running[mount] = made
	go func() {
		<-made.ended
		cancel()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.running, mount)
		close(made.gone)
	}()
	return made, true, nil
}

// leave tells whether it was the last one that waited.
func (g *gates) leave(left *flight) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	left.waiting--
	if left.waiting > 0 {
		return false
	}
	left.waiting = -1
	left.cancel()
	go func() {
		timer := time.NewTimer(hangGrace)
		defer timer.Stop()
		select {
		case <-left.ended:
		case <-timer.C:
			close(left.hung)
		}
	}()
	return true
}
