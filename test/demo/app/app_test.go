package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeFor(t *testing.T, w *writer, lines int) {
	t.Helper()
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	for range lines {
		if err := w.line(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.report(); err != nil {
		t.Fatal(err)
	}
	if err := w.file.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestASecondWriterContinuesAndNothingIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lines")
	var out bytes.Buffer
	r := &reader{path: path}
	if err := r.read(); err != nil { // There is no file yet.
		t.Fatal(err)
	}
	writeFor(t, &writer{path: path, host: "one", out: &out, limit: 1 << 20}, 10)
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	writeFor(t, &writer{path: path, host: "two", out: &out, limit: 1 << 20}, 300)
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	if r.number != 310 || r.lines != 310 || r.faults != 0 {
		t.Errorf("read up to line %d, %d lines, %d faults", r.number, r.lines, r.faults)
	}
	if !strings.Contains(out.String(), " line=310 longest-write=") {
		t.Errorf("the writers said %q", out.String())
	}
}

func TestTheFileBeginsAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lines")
	w := &writer{path: path, host: "one", out: &bytes.Buffer{}, limit: 1 << 10}
	writeFor(t, w, 100)
	info, err := os.Stat(path)
	if err != nil || info.Size() > 2<<10 {
		t.Fatalf("%v, %v", info, err)
	}
	r := &reader{path: path, offset: 1 << 20, number: 7}
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	if r.number != 100 || r.faults != 0 {
		t.Errorf("read up to line %d with %d faults", r.number, r.faults)
	}
}

func TestAWriterContinuesBehindADamagedLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lines")
	damaged := "7 " + time.Now().UTC().Format(stamp) + " one\n8 2026-\x00"
	if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	writeFor(t, &writer{path: path, host: "two", out: &bytes.Buffer{}, limit: 1 << 20}, 3)
	r := &reader{path: path}
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	if r.number != 10 || r.faults != 1 {
		t.Errorf("read up to line %d with %d faults", r.number, r.faults)
	}
}

func TestTheReaderSeesFaults(t *testing.T) {
	line := func(number string) string { return number + " " + time.Now().UTC().Format(stamp) + " one\n" }
	for name, tc := range map[string]struct {
		content string
		faults  int
	}{
		"nothing":      {"", 0},
		"in order":     {line("1") + line("2"), 0},
		"missing":      {line("1") + line("3"), 1},
		"twice":        {line("1") + line("1"), 1},
		"damaged":      {line("1") + "2 \x00\x00\n" + line("2"), 1},
		"not yet full": {line("1") + "2 20", 0},
	} {
		r := &reader{}
		r.take([]byte(tc.content))
		if r.faults != tc.faults {
			t.Errorf("%s: %d faults", name, r.faults)
		}
	}
}

func TestTheWriterEndsWithTheFirstError(t *testing.T) {
	w := &writer{path: t.TempDir(), host: "one", out: &bytes.Buffer{}, limit: 1}
	if err := w.run(context.Background()); err == nil {
		t.Error("a directory was written")
	}
	if err := run(t.Context(), []string{"dance"}); err == nil {
		t.Error("an unknown command was run")
	}
}
