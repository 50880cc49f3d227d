package workload

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// How often each worker works. Together this is some 450 operations a second,
// which leaves most of two processors to the cluster.
const (
	appendInterval = 20 * time.Millisecond
	blocksInterval = 50 * time.Millisecond
	readerInterval = 20 * time.Millisecond
	cycleInterval  = 100 * time.Millisecond
	lookupInterval = 10 * time.Millisecond
	cycleWorkers   = 2
)

// Run works in dir until ctx ends, then looks for all data that was
// acknowledged, and writes the report to out.
func Run(ctx context.Context, dir string, out io.Writer) error {
	m := newMeter(out)
	appends := &appender{meter: m, handle: newHandle(m, "append", filepath.Join(dir, "append"), os.O_RDWR|os.O_CREATE|os.O_APPEND)}
	blocks := &blocks{meter: m, handle: newHandle(m, "blocks", filepath.Join(dir, "blocks"), os.O_RDWR|os.O_CREATE)}
	if err := os.WriteFile(filepath.Join(dir, "constant"), constant(), 0o600); err != nil {
		return fmt.Errorf("prepare the reader's file: %w", err)
	}
	reads := &reader{meter: m, handle: newHandle(m, "reader", filepath.Join(dir, "constant"), os.O_RDONLY)}

	var workers sync.WaitGroup
	work := func(interval time.Duration, once func()) {
		workers.Go(func() { every(ctx, interval, once) })
	}
	work(appendInterval, appends.once)
	work(blocksInterval, blocks.once)
	work(readerInterval, reads.once)
	for i := range cycleWorkers {
		work(cycleInterval, (&cycle{meter: m, path: filepath.Join(dir, fmt.Sprintf("cycle-%d", i))}).once)
	}
	lookups := &lookup{meter: m, dir: dir}
	work(lookupInterval, lookups.once)
	workers.Go(func() { m.report(ctx) })
	workers.Wait()

	acknowledged, missing, err := appends.verify()
	if err != nil {
		return err
	}
	moreAcknowledged, moreMissing, err := blocks.verify()
	if err != nil {
		return err
	}
	m.write(Record{
		Kind: Verified, Start: time.Now().UnixNano(),
		Acknowledged: acknowledged + moreAcknowledged, Missing: missing + moreMissing,
	})
	return nil
}

// handle is a file that is held open. After an error it is opened again, so
// that one lost handle counts once.
type handle struct {
	meter        *meter
	worker, path string
	flags        int
	file         *os.File
}

func newHandle(m *meter, worker, path string, flags int) *handle {
	return &handle{meter: m, worker: worker, path: path, flags: flags}
}

// do runs an operation on the open file.
func (h *handle) do(operation string, run func(*os.File) error) error {
	if h.file == nil {
		err := h.meter.do(h.worker+".open", func() (err error) {
			h.file, err = os.OpenFile(h.path, h.flags, 0o600)
			return err
		})
		if err != nil {
			return err
		}
	}
	err := h.meter.do(h.worker+"."+operation, func() error { return run(h.file) })
	if err != nil {
		_ = h.file.Close() // It is broken anyhow.
		h.file = nil
	}
	return err
}
