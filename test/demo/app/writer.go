package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

const (
	// writeInterval is short against any stall that people would notice.
	writeInterval = 5 * time.Millisecond
	// reportInterval is also how often the file is made durable, and with it
	// visible to clients on other nodes.
	reportInterval = time.Second
	// fileLimit is where the file begins again, so that a demo that is left
	// alone does not fill the disk: about three hours of lines.
	fileLimit = 64 << 20
	// tailSize is enough for the last line.
	tailSize = 4096
	stamp    = "2006-01-02T15:04:05.000Z07:00"
)

// writer appends lines "NUMBER TIME HOST". The first error ends it: it tries
// nothing again, so what an application sees becomes the pod's restart count.
type writer struct {
	path, host string
	out        io.Writer
	limit      int64

	file    *os.File
	size    int64
	number  int
	slowest struct{ write, sync time.Duration }
}

func (w *writer) run(ctx context.Context) (err error) {
	if err := w.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.file.Close()) }()
	write, report := time.NewTicker(writeInterval), time.NewTicker(reportInterval)
	defer write.Stop()
	defer report.Stop()
	for {
		select {
		case <-ctx.Done():
			return w.report()
		case <-write.C:
			err = w.line()
		case <-report.C:
			err = w.report()
		}
		if err != nil {
			return err
		}
	}
}

// open continues behind the last line of an earlier writer, whose client may
// have been killed before it had stored all of it.
func (w *writer) open() error {
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	w.file = file
	info, err := file.Stat()
	if err != nil {
		return err
	}
	w.size = info.Size()
	tail := make([]byte, min(w.size, tailSize))
	if _, err := file.ReadAt(tail, w.size-int64(len(tail))); err != nil {
		return err
	}
	if len(tail) > 0 && !bytes.HasSuffix(tail, []byte("\n")) {
		if _, err := file.WriteString("\n"); err != nil {
			return err
		}
	}
	for line := range strings.Lines(string(tail)) {
		if number, _, err := parseLine(strings.TrimSuffix(line, "\n")); err == nil {
			w.number = number
		}
	}
	return nil
}

func (w *writer) line() error {
	if w.size >= w.limit {
		if err := w.file.Truncate(0); err != nil {
			return err
		}
		w.size = 0
	}
	w.number++
	start := time.Now()
	written, err := fmt.Fprintf(w.file, "%d %s %s\n", w.number, start.UTC().Format(stamp), w.host)
	w.slowest.write = max(w.slowest.write, time.Since(start))
	w.size += int64(written)
	return err
}

func (w *writer) report() error {
	start := time.Now()
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.slowest.sync = time.Since(start)
	_, err := fmt.Fprintf(w.out, "%s line=%d longest-write=%s longest-fsync=%s\n",
		time.Now().UTC().Format(stamp), w.number, rounded(w.slowest.write), rounded(w.slowest.sync))
	w.slowest.write, w.slowest.sync = 0, 0
	return err
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func parseLine(line string) (number int, written time.Time, err error) {
	var at, host string
	if _, err = fmt.Sscanf(line, "%d %s %s", &number, &at, &host); err != nil {
		return 0, written, fmt.Errorf("line %q: %w", line, err)
	}
	if written, err = time.Parse(stamp, at); err != nil {
		return 0, written, fmt.Errorf("line %q: %w", line, err)
	}
	return number, written, nil
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
