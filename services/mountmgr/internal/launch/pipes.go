package launch

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

// start starts a process and calls line for each line that it prints, never
// concurrently.
func (r runner) start(argv, environment []string, line func(text string, isError bool)) (*started, error) {
	spec := process.Spec{Argv: argv, Env: environment}
	stdout, stdoutWriter, err := pipe()
	if err != nil {
		return nil, err
	}
	defer stdoutWriter.Close() // the child has its own
	stderr, stderrWriter, err := pipe()
	if err != nil {
		stdout.Close()
		return nil, err
	}
	defer stderrWriter.Close()
	spec.Output, spec.Errors = stdoutWriter, stderrWriter
	child, err := r.processes.Start(spec)
	if err != nil {
		stdout.Close()
		stderr.Close()
		return nil, err
	}
	return drain(child, [2]*os.File{stdout, stderr}, line), nil
}

// drain calls line for each line of the two readers, standard error second.
func drain(child *process.Process, readers [2]*os.File, line func(text string, isError bool)) *started {
	result := &started{process: child, drained: make(chan struct{})}
	var mutex sync.Mutex
	var readersDone sync.WaitGroup
	for index, reader := range readers {
		readersDone.Go(func() {
			defer reader.Close()
			output.EachLine(reader, func(text string) {
				mutex.Lock()
				defer mutex.Unlock()
				line(text, index == 1)
			})
		})
	}
	go func() {
		<-child.Done()
		for _, reader := range readers {
			reader.SetReadDeadline(time.Now().Add(drainTime)) //nolint:errcheck // closed by its reader already
		}
		readersDone.Wait()
		close(result.drained)
	}()
	return result
}

// pipe makes a pipe whose read end has deadlines and whose write end blocks, as
// a child expects of its standard output.
func pipe() (reader, writer *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	if err := unix.SetNonblock(ends[0], true); err != nil {
		unix.Close(ends[0]) //nolint:errcheck // unused
		unix.Close(ends[1]) //nolint:errcheck // unused
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(ends[0]), "pipe"), os.NewFile(uintptr(ends[1]), "pipe"), nil
}
