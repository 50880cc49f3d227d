package clienttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// WorkloadProgram is the first argument with which a test binary must call
// RunWorkload from its TestMain.
const WorkloadProgram = "clienttest-workload"

// Report is what a workload saw.
type Report struct {
	Operations int
	// Errors by their text.
	Errors map[string]int
	// WorstMillis is the duration of the slowest operation.
	WorstMillis float64
}

// Workload is a process that works on a mount.
type Workload struct {
	tb      testing.TB
	command *exec.Cmd
	stdin   io.Closer
	output  bytes.Buffer
}

// StartWorkload starts a process that writes, reads, syncs, creates, renames
// and unlinks files of the mount until Stop. kind "full" keeps descriptors open
// for writing, "reader" only reads and looks up.
func (m *Mount) StartWorkload(tb testing.TB, kind string) *Workload {
	tb.Helper()
	executable, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	w := &Workload{tb: tb, command: exec.CommandContext(tb.Context(), executable, WorkloadProgram, kind, m.Path)}
	stdin, err := w.command.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := w.command.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	w.stdin, w.command.Stderr = stdin, os.Stderr
	if err := w.command.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.command.Process.Kill() }) //nolint:errcheck // it has ended
	// The first line says that all files are open.
	reader := bufio.NewReader(stdout)
	if _, err := reader.ReadString('\n'); err != nil {
		tb.Fatalf("the workload did not start: %v", err)
	}
	go io.Copy(&w.output, reader) //nolint:errcheck // Wait tells
	return w
}

// Stop ends the workload and returns what it saw.
func (w *Workload) Stop() Report {
	w.tb.Helper()
	w.stdin.Close()
	state, err := w.command.Process.Wait()
	if err != nil || !state.Success() {
		w.tb.Fatalf("workload: %v, %v", state, err)
	}
	w.command.Wait() //nolint:errcheck // waited for already; ends the copying
	var report Report
	if err := json.Unmarshal(w.output.Bytes(), &report); err != nil {
		w.tb.Fatalf("workload: %v in %q", err, w.output.String())
	}
	return report
}

// RunWorkload is the process of a workload.
func RunWorkload(output io.Writer, kind, directory string) int {
	r := &recorder{report: Report{Errors: map[string]int{}}, stop: make(chan struct{})}
	jobs := []func() error{r.reader(filepath.Join(directory, "read"))}
	if kind == "full" {
		jobs = append(jobs, r.appender(filepath.Join(directory, "append")), r.rewriter(filepath.Join(directory, "rewrite")), r.namer(directory))
	}
	var group sync.WaitGroup
	for _, job := range jobs {
		if job == nil {
			return 1
		}
		group.Go(func() {
			for !r.stopped() {
				if err := job(); err != nil {
					return
				}
			}
		})
	}
	fmt.Fprintln(output, "ready") //nolint:errcheck // the other end misses it
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // the end is what counts
	close(r.stop)
	group.Wait()
	if err := json.NewEncoder(output).Encode(r.report); err != nil {
		return 1
	}
	return 0
}

type recorder struct {
	stop   chan struct{}
	mutex  sync.Mutex
	report Report
}

func (r *recorder) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// do times one operation.
func (r *recorder) do(name string, operation func() error) {
	begin := time.Now()
	err := operation()
	took := float64(time.Since(begin).Microseconds()) / 1000
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.report.Operations++
	r.report.WorstMillis = max(r.report.WorstMillis, took)
	if err != nil {
		r.report.Errors[name+": "+err.Error()]++
	}
}

func openFile(path string, flags int) *os.File {
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return file
}

func (r *recorder) reader(path string) func() error {
	if os.WriteFile(path, bytes.Repeat([]byte("r"), 4096), 0o600) != nil {
		return nil
	}
	file := openFile(path, os.O_RDONLY)
	buffer := make([]byte, 4096)
	return func() error {
		r.do("read", func() error {
			_, err := file.ReadAt(buffer, 0)
			if err == nil && !bytes.Equal(buffer, bytes.Repeat([]byte("r"), len(buffer))) {
				err = errors.New("wrong content")
			}
			return err
		})
		r.do("stat", func() error { _, err := os.Stat(path); return err })
		<-time.After(time.Millisecond)
		return nil
	}
}

func (r *recorder) appender(path string) func() error {
	file, size := openFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND), int64(0)
	return func() error {
		r.do("append", func() error { _, err := file.Write(make([]byte, 100)); size += 100; return err })
		r.do("fsync", file.Sync)
		r.do("size", func() error {
			info, err := file.Stat()
			if err == nil && info.Size() != size {
				err = fmt.Errorf("wrong size: %d, want %d", info.Size(), size)
			}
			return err
		})
		return nil
	}
}

func (r *recorder) rewriter(path string) func() error {
	file, round := openFile(path, os.O_CREATE|os.O_RDWR), byte(0)
	return func() error {
		round++
		data, got := bytes.Repeat([]byte{round}, 4096), make([]byte, 4096)
		offset := int64(round%64) * 4096
		r.do("pwrite", func() error { _, err := file.WriteAt(data, offset); return err })
		r.do("pread", func() error {
			_, err := file.ReadAt(got, offset)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("wrong content")
			}
			return err
		})
		<-time.After(time.Millisecond)
		return nil
	}
}

func (r *recorder) namer(directory string) func() error {
	number := 0
	return func() error {
		number++
		path := filepath.Join(directory, fmt.Sprintf("name%d", number))
		r.do("create", func() error { return os.WriteFile(path, []byte("x"), 0o600) })
		r.do("rename", func() error { return os.Rename(path, path+"r") })
		r.do("unlink", func() error { return os.Remove(path + "r") })
		return nil
	}
}
