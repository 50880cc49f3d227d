package privateclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the kernel's end of a connection. It asks one thing at a time and
// must not be used concurrently.
type Kernel struct {
	socket *net.UnixConn
	unique uint64
	packet []byte
}

// Pair makes a connection: descriptor stands for the one of /dev/fuse, goes to
// the client and is the caller's.
func Pair() (kernel *Kernel, descriptor *os.File, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	descriptor = os.NewFile(uintptr(ends[0]), "fuse")
	ours := os.NewFile(uintptr(ends[1]), "kernel")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		descriptor.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	socket, isUnix := conn.(*net.UnixConn)
	if !isUnix {
		return nil, nil, fmt.Errorf("make socket pair: got a %T", conn)
	}
	return &Kernel{socket: socket, packet: make([]byte, maxAnswer+1)}, descriptor, nil
}

// Close ends the connection: the client reads the end of the file.
func (k *Kernel) Close() error { return k.socket.Close() }

// Init opens the conversation; nothing else may be asked before. It blocks
// until the client has started, or ctx ends.
func (k *Kernel) Init(ctx context.Context) error {
	answer, err := k.ask(ctx, "init", opInit, 0, initBody())
	if err != nil {
		return err
	}
	if len(answer) < initOutMin || binary.NativeEndian.Uint32(answer) != majorVersion {
		return fmt.Errorf("init: answer of %d bytes, protocol version %d expected", len(answer), majorVersion)
	}
	return nil
}

// Entry is what a lookup found.
type Entry struct {
	Inode uint64
	// Mode has the type and the permissions as stat(2) shows them.
	Mode uint32
}

// Lookup finds name in the directory parent; unix.ENOENT when it is missing.
func (k *Kernel) Lookup(ctx context.Context, parent uint64, name string) (Entry, error) {
	answer, err := k.ask(ctx, "lookup "+name, opLookup, parent, append([]byte(name), 0))
	if err != nil {
		return Entry{}, err
	}
	if len(answer) != entryOutSize {
		return Entry{}, fmt.Errorf("lookup %s: answer of %d bytes", name, len(answer))
	}
	entry := Entry{Inode: binary.NativeEndian.Uint64(answer), Mode: binary.NativeEndian.Uint32(answer[40+modeOffset:])}
	if entry.Inode == 0 { // a negative entry that may be cached
		return Entry{}, &answerError{"lookup " + name, unix.ENOENT}
	}
	return entry, nil
}

func (k *Kernel) open(ctx context.Context, inode uint64) (handle uint64, err error) {
	answer, err := k.ask(ctx, "open", opOpen, inode, openBody())
	if err != nil {
		return 0, err
	}
	if len(answer) != openOutSize {
		return 0, fmt.Errorf("open: answer of %d bytes", len(answer))
	}
	return binary.NativeEndian.Uint64(answer), nil
}

func (k *Kernel) write(ctx context.Context, inode, handle uint64, data []byte) error {
	answer, err := k.ask(ctx, "write", opWrite, inode, writeBody(handle, 0, data))
	if err != nil {
		return err
	}
	if len(answer) != writeOutSize || int(binary.NativeEndian.Uint32(answer)) != len(data) {
		return fmt.Errorf("write: answer of %d bytes to %d written ones", len(answer), len(data))
	}
	return nil
}

// read returns nothing at the end of the file. The data is valid until the next
// request.
func (k *Kernel) read(ctx context.Context, inode, handle, offset uint64) ([]byte, error) {
	return k.ask(ctx, "read", opRead, inode, readBody(handle, offset, maxRead))
}

func (k *Kernel) release(ctx context.Context, inode, handle uint64) error {
	_, err := k.ask(ctx, "release", opRelease, inode, releaseBody(handle))
	return err
}

// Destroy closes the conversation.
func (k *Kernel) Destroy(ctx context.Context) error {
	_, err := k.ask(ctx, "destroy", opDestroy, 0, nil)
	return err
}

// ask sends a request and waits for its answer. Notifications and the client's
// answers to requests that were never made are passed over.
func (k *Kernel) ask(ctx context.Context, name string, operation uint32, inode uint64, body []byte) ([]byte, error) {
	resume := k.interruptible(ctx)
	defer resume()
	if err := k.send(ctx, name, operation, inode, body); err != nil {
		return nil, err
	}
	for range maxForeign {
		count, err := k.socket.Read(k.packet)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, cause(ctx, err))
		}
		if count > maxAnswer {
			return nil, fmt.Errorf("%s: answer of more than %d bytes", name, maxAnswer)
		}
		unique, errno, data, err := decodeAnswer(k.packet[:count])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if unique != k.unique {
			continue
		}
		if errno != 0 {
			return nil, &answerError{name, errno}
		}
		return data, nil
	}
	return nil, fmt.Errorf("%s: the client answers everything but this", name)
}

func (k *Kernel) send(ctx context.Context, name string, operation uint32, inode uint64, body []byte) error {
	k.unique += 2 // the kernel's request numbers are even; odd ones are interrupts
	if _, err := k.socket.Write(encodeRequest(operation, k.unique, inode, body)); err != nil {
		return fmt.Errorf("%s: %w", name, cause(ctx, err))
	}
	return nil
}

// interruptible makes the end of ctx interrupt I/O until the function that it
// returns is called.
func (k *Kernel) interruptible(ctx context.Context) func() {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		k.socket.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // fails only on a closed socket
	})
	return func() {
		if !stop() {
			<-interrupted
		}
		k.socket.SetDeadline(time.Time{}) //nolint:errcheck // fails only on a closed socket
	}
}

func cause(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
