package nodetest

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Writer appends numbered lines to a file that it holds open, with fsync, in a
// process of its own, and tells every number that was acknowledged.
type Writer struct {
	cmd   *exec.Cmd
	path  string
	acked atomic.Int64
	ended chan error
	tail  atomic.Value
}

const writerProgram = `
import os, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
n = 0
while True:
    os.write(fd, b"%d\n" % n)
    os.fsync(fd)
    print(n, flush=True)
    n += 1
    time.sleep(0.002)
`

// StartWriter starts a writer of the file at path, which ends with the test.
func StartWriter(tb testing.TB, path string) *Writer {
	tb.Helper()
	cmd := exec.Command("python3", "-c", writerProgram, path) //nolint:noctx // It lives until the test ends.
	w := &Writer{cmd: cmd, path: path, ended: make(chan error, 1)}
	w.acked.Store(-1)
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var stderr strings.Builder
	w.cmd.Stderr = &stderr
	if err := w.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			if number, err := strconv.ParseInt(scanner.Text(), 10, 64); err == nil {
				w.acked.Store(number)
			}
		}
		err := w.cmd.Wait()
		w.tail.Store(stderr.String())
		w.ended <- err
	}()
	tb.Cleanup(func() { _ = w.cmd.Process.Kill() })
	return w
}

// AwaitMore waits until count further lines are acknowledged.
func (w *Writer) AwaitMore(tb testing.TB, count int64) {
	tb.Helper()
	want := w.acked.Load() + count
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for w.acked.Load() < want {
		select {
		case err := <-w.ended:
			tb.Fatalf("the writer saw an error: %v: %v", err, w.tail.Load())
		case <-deadline.C:
			tb.Fatalf("the writer stands at line %d", w.acked.Load())
		case <-ticker.C:
		}
	}
}

// StopAndCheck ends the writer and looks for every acknowledged line.
func (w *Writer) StopAndCheck(tb testing.TB, n *Node) {
	tb.Helper()
	_ = w.cmd.Process.Kill()
	if err := <-w.ended; err == nil {
		tb.Error("the writer ended by itself")
	}
	acked := w.acked.Load()
	text, err := n.Command("cat", w.path)
	if err != nil {
		tb.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if int64(len(lines)) < acked+1 {
		tb.Fatalf("%d lines were acknowledged, %d are there", acked+1, len(lines))
	}
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			tb.Fatalf("line %d holds %q", i, line)
		}
	}
	tb.Logf("%d acknowledged lines are there", acked+1)
}
