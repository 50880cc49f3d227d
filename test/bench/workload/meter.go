package workload

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"time"
)

const (
	// reportInterval paces the records that sum up.
	reportInterval = time.Second
	// pendingAfter is how long an operation may take before it is reported
	// although it has not returned.
	pendingAfter = 500 * time.Millisecond
)

// call is an operation under way.
type call struct {
	operation string
	start     time.Time
}

// meter measures operations and writes records.
type meter struct {
	mu         sync.Mutex
	out        *json.Encoder
	calls      map[*call]struct{}
	operations int
	longest    time.Duration
}

func newMeter(out io.Writer) *meter {
	return &meter{out: json.NewEncoder(out), calls: make(map[*call]struct{})}
}

// do runs one operation and returns its error.
func (m *meter) do(operation string, run func() error) error {
	c := &call{operation: operation, start: time.Now()}
	m.mu.Lock()
	m.calls[c] = struct{}{}
	m.mu.Unlock()
	err := run()
	took := time.Since(c.start)

	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.calls, c)
	m.operations++
	m.longest = max(m.longest, took)
	record := Record{Kind: Slow, Start: c.start.UnixNano(), Duration: took.Nanoseconds(), Operation: operation}
	switch {
	case err != nil:
		record.Kind, record.Error = Failed, err.Error()
	case took < Threshold:
		return nil
	}
	m.write(record)
	return err
}

// write drops errors: when the report cannot be written, nobody reads it.
func (m *meter) write(record Record) { _ = m.out.Encode(record) }

// report writes a sum each second until ctx ends.
func (m *meter) report(ctx context.Context) {
	every(ctx, reportInterval, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		now := time.Now()
		for c := range m.calls {
			if took := now.Sub(c.start); took >= pendingAfter {
				m.write(Record{Kind: Pending, Start: c.start.UnixNano(), Duration: took.Nanoseconds(), Operation: c.operation})
			}
		}
		m.write(Record{Kind: Second, Start: now.UnixNano(), Duration: m.longest.Nanoseconds(), Operations: m.operations})
		m.operations, m.longest = 0, 0
	})
}

// every calls run once an interval until ctx ends. Ticks are lost, not made up
// for, while run takes longer.
func every(ctx context.Context, interval time.Duration, run func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			run()
		}
	}
}
