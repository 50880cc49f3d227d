package manager

import (
	"sync"
	"time"
)

// rememberedPauses is how many hand-overs tell what the next one may take.
const rememberedPauses = 16

// pauses are how long the last hand-overs of this node took.
type pauses struct {
	mu   sync.Mutex
	last []time.Duration
}

func (p *pauses) add(pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = append(p.last, pause)
	p.last = p.last[max(0, len(p.last)-rememberedPauses):]
}

// longest is 0 when there was no hand-over yet.
func (p *pauses) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := time.Duration(0)
	for _, pause := range p.last {
		longest = max(longest, pause)
	}
	return longest
}
