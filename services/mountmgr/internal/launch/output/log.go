// Package output carries what processes print to the log of the container, line
// by line and without secrets, and keeps the last lines.
package output

import (
	"io"
	"strconv"
	"sync"
)

// queueLength is how many lines wait for a slow reader of the log.
const queueLength = 256

// Log writes lines to a file that may block for long: the reader of a
// container's output is the container runtime, and a client must not stop
// serving while that is being restarted. Lines that do not fit the queue are
// dropped and counted.
type Log struct {
	file  io.Writer
	lines chan string
	ended chan struct{}

	mutex   sync.Mutex
	closed  bool
	dropped int
}

// NewLog returns a log that writes to file until Close.
func NewLog(file io.Writer) *Log {
	l := &Log{file: file, lines: make(chan string, queueLength), ended: make(chan struct{})}
	go l.run()
	return l
}

// Line adds a line, which must not end in a line feed; it never blocks.
func (l *Log) Line(line string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed {
		return
	}
	select {
	case l.lines <- line:
	default:
		l.dropped++
	}
}

// Write adds the lines of data, which must be whole lines; it never blocks or
// fails. It makes Log fit for a slog handler.
func (l *Log) Write(data []byte) (int, error) {
	text := string(data)
	if length := len(text); length > 0 && text[length-1] == '\n' {
		text = text[:length-1]
	}
	l.Line(text)
	return len(data), nil
}

// Close writes what is queued, unless the file blocks, and ends the log. ended
// bounds the wait.
func (l *Log) Close(ended <-chan struct{}) {
	l.mutex.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mutex.Unlock()
	select {
	case <-l.ended:
	case <-ended:
	}
}

func (l *Log) run() {
	defer close(l.ended)
	for line := range l.lines {
		if dropped := l.takeDropped(); dropped > 0 {
			l.print("jfs-launch: " + strconv.Itoa(dropped) + " lines were dropped: the log was not read")
		}
		l.print(line)
	}
}

func (l *Log) print(line string) {
	io.WriteString(l.file, line+"\n") //nolint:errcheck // nowhere to say it
}

func (l *Log) takeDropped() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	dropped := l.dropped
	l.dropped = 0
	return dropped
}
