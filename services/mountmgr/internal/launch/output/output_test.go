package output_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
)

func TestMask(t *testing.T) {
	mask := output.NewMask("hunter2!", "UTC", "redis://:p%40ss-word@db:6379/1",
		"-----BEGIN KEY-----\nAAAAB3NzaC1yc2E\n-----END KEY-----\n", "hunter2!longer")
	for text, want := range map[string]string{
		"password hunter2! refused":                  "password *** refused",
		"hunter2!longer":                             "***",
		"at 10:00 UTC":                               "at 10:00 UTC",
		"key AAAAB3NzaC1yc2E is bad":                 "key *** is bad",
		"open redis://:p%40ss-word@db:6379/1: no":    "open ***: no",
		"password p@ss-word":                         "password ***",
		"mysql://user:other/@x@(db:3306)/jfs, sorry": "mysql://user:***@(db:3306)/jfs, sorry",
		"two http://a:bcd@e and http://f:ghi@j":      "two http://a:***@e and http://f:***@j",
		"redis://db:6379/1":                          "redis://db:6379/1",
		"mail a:b@c to http://host/path":             "mail a:b@c to http://host/path",
		"":                                           "",
	} {
		if got := mask.Apply(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := new(output.Mask).Apply("http://u:secret@h"); got != "http://u:***@h" {
		t.Errorf("zero value: got %q", got)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	tail := new(output.Tail)
	output.EachLine(strings.NewReader(strings.Repeat("filler line\r\n", 10_000)+"last\xff line"), tail.Add)
	lines := tail.Lines()
	if got := lines[len(lines)-1]; got != "last? line" {
		t.Errorf("last line is %q", got)
	}
	if size := len(strings.Join(lines, "")); size > output.MaxTail || size < output.MaxTail/2 {
		t.Errorf("%d bytes are kept", size)
	}
	if lines[0] != "filler line" {
		t.Errorf("first line is %q", lines[0])
	}
}

func TestLongLinesComeInPieces(t *testing.T) {
	var pieces []string
	output.EachLine(strings.NewReader(strings.Repeat("x", 5000)+"\nend\n"), func(line string) { pieces = append(pieces, line) })
	if joined := strings.Join(pieces, ""); joined != strings.Repeat("x", 5000)+"end" || len(pieces) < 3 {
		t.Errorf("%d pieces, %d bytes", len(pieces), len(joined))
	}
}

// A log that nobody reads must not stop the one who writes.
func TestLogNeverBlocks(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	log := output.NewLog(writer)
	const lines = 10_000
	for range lines {
		log.Line(strings.Repeat("y", 100))
	}
	var got []string
	read := make(chan struct{})
	go func() { output.EachLine(reader, func(line string) { got = append(got, line) }); close(read) }()
	deadline := make(chan struct{})
	timer := time.AfterFunc(10*time.Second, func() { close(deadline) })
	defer timer.Stop()
	log.Close(deadline)
	writer.Close()
	<-read
	if len(got) >= lines || !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, "lines were dropped") }) {
		t.Errorf("%d of %d lines came out, without a word about the others", len(got), lines)
	}
}
