package workload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	blockSize  = 4096
	blockCount = 64
)

var errContent = errors.New("wrong content")

// appender adds a numbered line to a file that it holds open, and syncs it.
type appender struct {
	meter        *meter
	handle       *handle
	next         int
	acknowledged []int
}

func (a *appender) once() {
	line := a.next
	a.next++
	err := a.handle.do("write", func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%d\n", line)
		return err
	})
	if err != nil || a.handle.do("fsync", (*os.File).Sync) != nil {
		return
	}
	a.acknowledged = append(a.acknowledged, line)
}

// verify returns how many lines were acknowledged and how many of these are
// not in the file.
func (a *appender) verify() (acknowledged, missing int, err error) {
	content, err := os.ReadFile(a.handle.path)
	if err != nil {
		return 0, 0, fmt.Errorf("verify appended lines: %w", err)
	}
	there := make(map[string]bool)
	for line := range strings.Lines(string(content)) {
		there[strings.TrimSuffix(line, "\n")] = true
	}
	for _, line := range a.acknowledged {
		if !there[strconv.Itoa(line)] {
			missing++
		}
	}
	return len(a.acknowledged), missing, nil
}

// blocks writes blocks of a file that it holds open, each with a new content,
// syncs them, and reads others back.
type blocks struct {
	meter  *meter
	handle *handle
	round  uint64
	// synced is the round whose content a block has for sure; 0 is none.
	synced [blockCount]uint64
}

func (b *blocks) once() {
	b.round++
	block := b.round % blockCount
	b.synced[block] = 0
	err := b.handle.do("pwrite", func(f *os.File) error {
		_, err := f.WriteAt(content(b.round), int64(block*blockSize))
		return err
	})
	if err == nil && b.handle.do("fsync", (*os.File).Sync) == nil {
		b.synced[block] = b.round
	}
	older := (b.round*7 + 3) % blockCount
	if b.synced[older] != 0 {
		_ = b.handle.do("pread", func(f *os.File) error { return b.check(f, older) }) // The meter has it.
	}
}

// check reads a block from the file system rather than the page cache.
func (b *blocks) check(f *os.File, block uint64) error {
	return readBack(f, int64(block*blockSize), content(b.synced[block]))
}

func (b *blocks) verify() (acknowledged, missing int, err error) {
	file, err := os.Open(b.handle.path)
	if err != nil {
		return 0, 0, fmt.Errorf("verify blocks: %w", err)
	}
	defer func() { _ = file.Close() }()
	for block, round := range b.synced {
		if round == 0 {
			continue
		}
		acknowledged++
		if b.check(file, uint64(block)) != nil {
			missing++
		}
	}
	return acknowledged, missing, nil
}

// reader reads a file that never changes and that it holds open.
type reader struct {
	meter  *meter
	handle *handle
	next   int
}

func (r *reader) once() {
	block := r.next % blockCount
	r.next++
	_ = r.handle.do("pread", func(f *os.File) error {
		return readBack(f, int64(block*blockSize), content(uint64(block)))
	}) // The meter has it.
}

// constant is the content of the reader's file.
func constant() []byte {
	var all []byte
	for block := range blockCount {
		all = append(all, content(uint64(block))...)
	}
	return all
}

// cycle is the life of a file.
type cycle struct {
	meter *meter
	path  string
	round uint64
}

func (c *cycle) once() {
	c.round++
	want := content(c.round)
	named := c.path + "." + strconv.FormatUint(c.round, 10)
	if c.create(want) != nil || c.do("rename", func() error { return os.Rename(c.path, named) }) != nil {
		_ = os.Remove(c.path) // The next round makes it again.
		return
	}
	_ = c.do("stat", func() error { _, err := os.Stat(named); return err })
	_ = c.do("read", func() error {
		got, err := os.ReadFile(named)
		if err == nil && !bytes.Equal(got, want) {
			err = errContent
		}
		return err
	})
	_ = c.do("unlink", func() error { return os.Remove(named) }) // The meter has the errors.
}

func (c *cycle) create(want []byte) error {
	var file *os.File
	err := c.do("create", func() (err error) {
		file, err = os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = c.do("write", func() error { _, err := file.Write(want); return err })
	if err == nil {
		err = c.do("fsync", file.Sync)
	}
	return errors.Join(err, c.do("close", file.Close))
}

func (c *cycle) do(operation string, run func() error) error {
	return c.meter.do("cycle."+operation, run)
}

// lookup asks for names that do not exist, which no cache answers.
type lookup struct {
	meter *meter
	dir   string
	next  int
}

func (l *lookup) once() {
	l.next++
	path := filepath.Join(l.dir, "absent-"+strconv.Itoa(l.next))
	_ = l.meter.do("lookup.stat", func() error {
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, errContent)
	}) // The meter has it.
}

// content is a block that tells its number anywhere.
func content(number uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, number), blockSize/8)
}

// readBack drops the page cache of a part of a file, reads it and compares.
func readBack(f *os.File, offset int64, want []byte) error {
	if err := unix.Fadvise(int(f.Fd()), offset, int64(len(want)), unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cached pages: %w", err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, offset); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errContent
	}
	return nil
}
