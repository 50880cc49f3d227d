package devcluster

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// reporter writes one line a step, each with the seconds since the start.
type reporter struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

func newReporter(out io.Writer) *reporter {
	if out == nil {
		out = io.Discard
	}
	return &reporter{out: out, start: time.Now()}
}

func (r *reporter) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	_, _ = fmt.Fprintf(r.out, "%6.1fs  %s\n", time.Since(r.start).Seconds(), line)
}
