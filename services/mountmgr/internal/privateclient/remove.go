package privateclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The client's own commands go through a file that is found in every directory
// and listed in none. Numbers are big endian.
const (
	controlName = ".control"
	// prefixedControlName is its name under the client's --prefix-internal.
	prefixedControlName = ".jfs.control"
	commandRemove       = 1002
	removeThreads       = 50
	// progressMark begins a progress record: two counters of 8 bytes follow.
	progressMark = 0xFE
	progressSize = 17
	// dataMark begins data: 4 bytes of length and that many bytes follow.
	dataMark = 0xFF
	dataHead = 5
	maxData  = 1 << 20
	maxName  = 255

	firstPoll   = 10 * time.Millisecond
	longestPoll = 300 * time.Millisecond
	cleanUpTime = 5 * time.Second
)

// CheckPath says what is wrong with the path of a directory to remove:
// errdefs.ErrInvalidArgument.
func CheckPath(directory string) error {
	if !path.IsAbs(directory) || directory == "/" || path.Clean(directory) != directory || strings.ContainsRune(directory, 0) {
		return fmt.Errorf("path %q must be absolute, clean and below the root: %w", directory, errdefs.ErrInvalidArgument)
	}
	for name := range strings.SplitSeq(directory[1:], "/") {
		if len(name) > maxName {
			return fmt.Errorf("path %q: a name is longer than %d bytes: %w", directory, maxName, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// RemoveTree removes a directory with all that is in it; a missing one counts
// as removed. What is not a directory is refused with
// errdefs.ErrFailedPrecondition. progress, if not nil, is called with the number
// of removed entries. It blocks until the client is done or ctx ends; the
// client goes on in the second case.
func (k *Kernel) RemoveTree(ctx context.Context, directory string, progress func(removed uint64)) error {
	if err := CheckPath(directory); err != nil {
		return err
	}
	err := k.removeTree(ctx, strings.Split(directory[1:], "/"), progress)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", directory, err)
	}
	return nil
}

func (k *Kernel) removeTree(ctx context.Context, names []string, progress func(uint64)) error {
	parent := uint64(RootInode)
	for index, name := range names {
		entry, err := k.Lookup(ctx, parent, name)
		if err != nil {
			return err
		}
		if entry.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%s is not a directory: %w", name, errdefs.ErrFailedPrecondition)
		}
		if index < len(names)-1 {
			parent = entry.Inode
		}
	}
	return k.control(ctx, removeMessage(parent, names[len(names)-1]), progress)
}

// removeMessage is the command to remove name in the directory parent with all
// below it, by way of the file system's trash.
func removeMessage(parent uint64, name string) []byte {
	body := binary.BigEndian.AppendUint64(nil, parent)
	body = append(append(body, byte(len(name))), name...)
	body = append(body, 0, removeThreads)
	message := binary.BigEndian.AppendUint32(nil, commandRemove)
	return append(binary.BigEndian.AppendUint32(message, uint32(len(body))), body...)
}

// control gives the client a command of its own and waits until it is done.
func (k *Kernel) control(ctx context.Context, message []byte, progress func(uint64)) error {
	file, err := k.Lookup(ctx, RootInode, controlName)
	if errors.Is(err, unix.ENOENT) {
		file, err = k.Lookup(ctx, RootInode, prefixedControlName)
	}
	var handle uint64
	if err == nil {
		handle, err = k.open(ctx, file.Inode)
	}
	if err != nil {
		// Never "the directory is missing", which would count as success.
		return fmt.Errorf("open the control file: %s: %w", err.Error(), errdefs.ErrUnavailable)
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		k.release(clean, file.Inode, handle) //nolint:errcheck // the connection is over after this
	}()
	if err := k.write(ctx, file.Inode, handle, message); err != nil {
		return err
	}
	return k.awaitResult(ctx, file.Inode, handle, uint64(len(message)), progress)
}

// awaitResult reads the answer, which follows the command in the file. At its
// end there is nothing yet.
func (k *Kernel) awaitResult(ctx context.Context, inode, handle, offset uint64, progress func(uint64)) error {
	var pending []byte
	pause := firstPoll
	for {
		data, err := k.read(ctx, inode, handle, offset)
		if err != nil {
			return err
		}
		offset += uint64(len(data))
		pending = append(pending, data...)
		errno, done, rest, err := parseResult(pending, progress)
		switch {
		case err != nil:
			return err
		case done && errno != 0:
			return errno
		case done:
			return nil
		}
		pending = rest
		if len(data) > 0 {
			pause = firstPoll
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPoll)
	}
}

// parseResult goes through the complete records of data: progress, data, and
// the error number, one byte, that ends the answer.
func parseResult(data []byte, progress func(uint64)) (errno unix.Errno, done bool, rest []byte, err error) {
	for len(data) > 0 {
		var size int
		switch data[0] {
		case progressMark:
			size = progressSize
		case dataMark:
			if size = dataHead; len(data) >= dataHead {
				length := binary.BigEndian.Uint32(data[1:])
				if length > maxData {
					return 0, false, nil, fmt.Errorf("read result: data of %d bytes", length)
				}
				size += int(length)
			}
		default:
			return unix.Errno(data[0]), true, nil, nil
		}
		if len(data) < size {
			break
		}
		if data[0] == progressMark && progress != nil {
			progress(binary.BigEndian.Uint64(data[1:]))
		}
		data = data[size:]
	}
	return 0, false, data, nil
}
