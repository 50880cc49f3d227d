package workload

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRunReportsAndVerifies(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var report bytes.Buffer
	if err := Run(ctx, t.TempDir(), &report); err != nil {
		t.Fatal(err)
	}
	records, err := Parse(&report)
	if err != nil {
		t.Fatal(err)
	}
	var operations int
	for _, record := range records {
		operations += record.Operations
		if record.Kind == Failed {
			t.Errorf("%s failed: %s", record.Operation, record.Error)
		}
	}
	last := records[len(records)-1]
	if last.Kind != Verified || last.Acknowledged == 0 || last.Missing != 0 {
		t.Errorf("last record = %+v, want acknowledged data and none missing", last)
	}
	if operations == 0 {
		t.Error("no operation was counted")
	}
}

func TestVerifyFindsWhatIsMissing(t *testing.T) {
	m := newMeter(new(bytes.Buffer))
	dir := t.TempDir()
	a := &appender{meter: m, handle: newHandle(m, "append", filepath.Join(dir, "a"), os.O_RDWR|os.O_CREATE|os.O_APPEND)}
	b := &blocks{meter: m, handle: newHandle(m, "blocks", filepath.Join(dir, "b"), os.O_RDWR|os.O_CREATE)}
	for range 3 {
		a.once()
		b.once()
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("0\n2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if acknowledged, missing, err := a.verify(); acknowledged != 3 || missing != 1 || err != nil {
		t.Errorf("verify appended = %d, %d, %v, want 3, 1", acknowledged, missing, err)
	}
	if err := os.Truncate(filepath.Join(dir, "b"), 2*blockSize); err != nil {
		t.Fatal(err)
	}
	if acknowledged, missing, err := b.verify(); acknowledged != 3 || missing != 2 || err != nil {
		t.Errorf("verify blocks = %d, %d, %v, want 3, 2", acknowledged, missing, err)
	}
}

func TestAHandleIsOpenedAgainAfterAnError(t *testing.T) {
	var report bytes.Buffer
	m := newMeter(&report)
	h := newHandle(m, "x", filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE)
	broken := errors.New("broken")
	if err := h.do("write", func(*os.File) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
	if err := h.do("write", func(f *os.File) error { _, err := f.Write([]byte("x")); return err }); err != nil {
		t.Errorf("after the error: %v", err)
	}
	records, err := Parse(&report)
	if err != nil || len(records) == 0 || records[0].Kind != Failed || records[0].Operation != "x.write" {
		t.Errorf("records = %+v, %v, want the failed write", records, err)
	}
}

func TestOverlaps(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	record := Record{Start: at(10).UnixNano(), Duration: (2 * time.Second).Nanoseconds()}
	for _, c := range []struct {
		from, to int64
		want     bool
	}{{0, 10, false}, {0, 11, true}, {11, 12, true}, {12, 13, false}, {5, 20, true}} {
		if got := record.Overlaps(at(c.from), at(c.to)); got != c.want {
			t.Errorf("Overlaps(%d, %d) = %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
