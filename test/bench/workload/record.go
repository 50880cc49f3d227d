// Package workload is a steady load on a file system that tells how long
// single operations took. The benchmarks run it in a pod while clients of the
// file system are replaced or killed, and read its report.
package workload

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind says what a Record is about.
type Kind string

// The kinds.
const (
	// Slow is an operation that took at least Threshold.
	Slow Kind = "slow"
	// Failed is an operation that returned an error, or wrong content.
	Failed Kind = "failed"
	// Pending is an operation that has not returned yet. When it does, a Slow
	// or Failed record of the same operation follows.
	Pending Kind = "pending"
	// Second sums up what completed since the last record of this kind.
	Second Kind = "second"
	// Verified is the last record: acknowledged data was looked for.
	Verified Kind = "verified"
)

// Threshold is the duration from which on an operation has a record of its own.
const Threshold = 2 * time.Millisecond

// Record is one line of a report.
type Record struct {
	Kind Kind `json:"kind"`
	// Start is when the operation began, in nanoseconds since 1970.
	Start int64 `json:"start"`
	// Duration is in nanoseconds; for Pending, until now; for Second, of the
	// longest operation that completed.
	Duration int64 `json:"duration,omitempty"`
	// Operation is WORKER.OPERATION, such as append.fsync.
	Operation string `json:"operation,omitempty"`
	Error     string `json:"error,omitempty"`
	// Operations is how many completed, of a Second.
	Operations int `json:"operations,omitempty"`
	// Acknowledged is how many pieces of data were written and synced without
	// an error, and Missing how many of them are not there, of Verified.
	Acknowledged int `json:"acknowledged,omitempty"`
	Missing      int `json:"missing,omitempty"`
}

// Overlaps is true when the operation was under way at some time in
// [from, to).
func (r Record) Overlaps(from, to time.Time) bool {
	return r.Start < to.UnixNano() && r.Start+r.Duration > from.UnixNano()
}

// Parse reads a report. A last line that is not complete is left out.
func Parse(report io.Reader) ([]Record, error) {
	var records []Record
	for lines := bufio.NewReader(report); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read report of load: %w", err)
		}
		var record Record
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, fmt.Errorf("read report of load: %w: %q", err, line)
		}
		records = append(records, record)
	}
}
