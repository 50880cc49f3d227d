package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// pollInterval is how often the reader looks for more lines.
const pollInterval = 100 * time.Millisecond

// reader follows the writer's file and counts what is not as it should be.
type reader struct {
	path string
	out  io.Writer

	file   *os.File
	offset int64
	rest   []byte // A line whose end has not been seen yet.
	number int
	lines  int
	faults int
	lag    time.Duration
}

func (r *reader) run(ctx context.Context) error {
	poll, report := time.NewTicker(pollInterval), time.NewTicker(reportInterval)
	defer poll.Stop()
	defer report.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			if err := r.read(); err != nil {
				return err
			}
		case <-report.C:
			_, err := fmt.Fprintf(r.out, "%s line=%d lines-read=%d missing-or-damaged=%d age-when-read=%s\n",
				time.Now().UTC().Format(stamp), r.number, r.lines, r.faults, r.lag.Round(time.Millisecond))
			if err != nil {
				return err
			}
		}
	}
}

// read takes what has been appended since the last call.
func (r *reader) read() error {
	if r.file == nil {
		file, err := os.Open(r.path)
		if isMissing(err) {
			return nil // The writer has not begun.
		}
		if err != nil {
			return err
		}
		r.file = file
	}
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < r.offset { // The writer began again.
		r.offset, r.rest, r.number = 0, nil, 0
	}
	content, err := io.ReadAll(io.NewSectionReader(r.file, r.offset, info.Size()-r.offset))
	if err != nil {
		return err
	}
	r.offset += int64(len(content))
	r.take(append(r.rest, content...))
	return nil
}

func (r *reader) take(content []byte) {
	for {
		line, rest, complete := bytes.Cut(content, []byte("\n"))
		if !complete {
			r.rest = content
			return
		}
		number, written, err := parseLine(string(line))
		if err != nil || r.number != 0 && number != r.number+1 {
			r.faults++
		}
		if err == nil {
			r.number, r.lag = number, time.Since(written)
		}
		r.lines++
		content = rest
	}
}
