package output

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
)

const (
	// MaxTail is how many bytes of its last lines a Tail keeps.
	MaxTail = 3 << 10
	// maxLine is where a line is cut in two.
	maxLine = 2 << 10
)

// Tail keeps the last lines of an output.
type Tail struct {
	mutex sync.Mutex
	lines []string
	size  int
}

// Add appends a line.
func (t *Tail) Add(line string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.lines = append(t.lines, line)
	t.size += len(line)
	for t.size > MaxTail {
		t.size -= len(t.lines[0])
		t.lines = t.lines[1:]
	}
}

// Lines returns what is kept, oldest first.
func (t *Tail) Lines() []string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return slices.Clone(t.lines)
}

// EachLine calls line for every line of reader until it ends. Lines longer than
// 2 KiB come in pieces.
func EachLine(reader io.Reader, line func(string)) {
	buffered := bufio.NewReaderSize(reader, maxLine)
	for {
		data, err := buffered.ReadSlice('\n')
		if len(data) > 0 {
			line(strings.ToValidUTF8(strings.TrimRight(string(data), "\r\n"), "?"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
