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
	var readers [2]*os.File
	writers := [2]**os.File{&spec.Output, &spec.Errors}
	for index := range readers {
		reader, writer, err := pipe()
		if err != nil {
			return nil, err
		}
		defer writer.Close() //nolint:errcheck // the child has its own
		readers[index], *writers[index] = reader, writer
	}
	child, err := r.processes.Start(spec)
	if err != nil {
		for _, reader := range readers {
			reader.Close() //nolint:errcheck // nothing was read
		}
		return nil, err
	}
	result := &started{process: child, drained: make(chan struct{})}
	var mutex sync.Mutex
	var readersDone sync.WaitGroup
	for index, reader := range readers {
		readersDone.Go(func() {
			defer reader.Close() //nolint:errcheck // read only
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
	return result, nil
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
