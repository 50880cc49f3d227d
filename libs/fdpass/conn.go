// Package fdpass sends protobuf messages and file descriptors over unix sockets
// of type SOCK_SEQPACKET: one message is one packet, and the descriptors that
// belong to it ride in the same packet (SCM_RIGHTS).
//
// It never sets a flag on a descriptor that it carries: O_NONBLOCK belongs to
// the open file description, which the other holders of a /dev/fuse descriptor
// share.
package fdpass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// Limits of one packet.
const (
	// MaxMessage is the size of the largest encoded message in bytes. It fits
	// the default socket buffer of Linux (net.core.wmem_default, 208 KiB).
	MaxMessage = 128 << 10
	// MaxFiles is how many descriptors one message can carry.
	MaxFiles = 4
)

// Conn is one end of a connection. Send may be called concurrently with
// Receive and with itself; Receive must not be called concurrently with itself.
type Conn struct {
	socket    *net.UnixConn
	sendMutex sync.Mutex
}

// NewConn wraps a connected socket of type SOCK_SEQPACKET and takes it over.
func NewConn(socket *net.UnixConn) *Conn { return &Conn{socket: socket} }

// Close ends the connection; blocked calls return an error.
func (c *Conn) Close() error { return c.socket.Close() }

// Send sends one message and duplicates of files, which stay the caller's. It
// blocks while the peer's queue is full, until ctx ends. A message that encodes
// to nothing is refused, because the peer could not tell it from the end of
// the connection: errdefs.ErrInvalidArgument, as for one that is too large.
// io.EOF says that the peer is gone.
func (c *Conn) Send(ctx context.Context, message proto.Message, files ...*os.File) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name(message), err)
	}
	switch {
	case len(data) == 0:
		return fmt.Errorf("send %s: empty message: %w", name(message), errdefs.ErrInvalidArgument)
	case len(data) > MaxMessage:
		return fmt.Errorf("send %s: %d bytes, at most %d: %w", name(message), len(data), MaxMessage, errdefs.ErrInvalidArgument)
	case len(files) > MaxFiles:
		return fmt.Errorf("send %s: %d descriptors, at most %d: %w", name(message), len(files), MaxFiles, errdefs.ErrInvalidArgument)
	}
	c.sendMutex.Lock()
	defer c.sendMutex.Unlock()
	resume := interruptible(ctx, c.socket.SetWriteDeadline)
	defer resume()
	err = withDescriptors(files, nil, func(descriptors []int) error {
		var rights []byte
		if len(descriptors) > 0 {
			rights = unix.UnixRights(descriptors...)
		}
		_, _, err := c.socket.WriteMsgUnix(data, rights, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("send %s: %w", name(message), cause(ctx, err))
	}
	return nil
}

// withDescriptors calls use with the numbers of files and keeps the files open
// meanwhile. Unlike File.Fd it leaves their blocking mode alone.
func withDescriptors(files []*os.File, descriptors []int, use func([]int) error) error {
	if len(files) == 0 {
		return use(descriptors)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Control(func(descriptor uintptr) {
		result = withDescriptors(files[1:], append(descriptors, int(descriptor)), use)
	})
	if err != nil {
		return err
	}
	return result
}

// Receive waits for one message, until ctx ends, and decodes it into message.
// The caller owns the files it returns, which are close-on-exec. io.EOF says
// that the peer is gone; errdefs.ErrInvalidArgument that it sent something that
// is not such a message or carries too much: the descriptors are closed then.
func (c *Conn) Receive(ctx context.Context, message proto.Message) ([]*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("receive %s: %w", name(message), err)
	}
	resume := interruptible(ctx, c.socket.SetReadDeadline)
	defer resume()
	data, control, flags, err := nextPacket(c.socket)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receive %s: %w", name(message), cause(ctx, err))
	}
	files, err := openRights(control)
	switch {
	case err != nil:
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("more than %d bytes: %w", MaxMessage, errdefs.ErrInvalidArgument)
	case flags&unix.MSG_CTRUNC != 0:
		err = fmt.Errorf("more than %d descriptors, or too many open files here: %w", MaxFiles, errdefs.ErrInvalidArgument)
	default:
		if err = proto.Unmarshal(data, message); err != nil {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if err != nil {
		CloseFiles(files)
		return nil, fmt.Errorf("receive %s: %w", name(message), err)
	}
	return files, nil
}

// nextPacket waits for a packet and only then makes room for it: a process holds
// many idle connections, and messages are rare. io.EOF at the end.
func nextPacket(socket *net.UnixConn) (data, control []byte, flags int, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, nil, 0, err
	}
	var failed error
	err = raw.Read(func(descriptor uintptr) bool {
		var size int
		// With MSG_TRUNC this is the length of the packet, unix(7).
		size, _, failed = unix.Recvfrom(int(descriptor), nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if failed == nil {
			data, control = make([]byte, min(size, MaxMessage)), make([]byte, unix.CmsgSpace(MaxFiles*4))
			var count, controlCount int
			count, controlCount, flags, _, failed = unix.Recvmsg(
				int(descriptor), data, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			if failed == nil {
				data, control = data[:count], control[:controlCount]
			}
		}
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return nil, nil, 0, err
	case failed == nil && len(data) == 0: // Send refuses empty messages.
		files, _ := openRights(control)
		CloseFiles(files)
		failed = io.EOF
	}
	return data, control, flags, failed
}

// openRights wraps every descriptor of control; on error none stays open.
func openRights(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var files []*os.File
	for _, message := range messages {
		if message.Header.Level != unix.SOL_SOCKET || message.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		descriptors, err := unix.ParseUnixRights(&message)
		if err != nil {
			CloseFiles(files)
			return nil, fmt.Errorf("parse descriptors: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		for _, descriptor := range descriptors {
			files = append(files, os.NewFile(uintptr(descriptor), "received"))
		}
	}
	return files, nil
}

// CloseFiles closes all of files.
func CloseFiles(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// Credentials are who made the other end of a connection.
type Credentials struct {
	// PID as seen from our PID namespace; 0 when it is not visible there.
	PID int32
	UID uint32
	GID uint32
}

// Peer returns who connected; on the dialling side, who listened. The kernel
// records it (SO_PEERCRED), the peer cannot choose it.
func (c *Conn) Peer() (Credentials, error) {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var credentials *unix.Ucred
	var result error
	err = raw.Control(func(descriptor uintptr) {
		credentials, result = unix.GetsockoptUcred(int(descriptor), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, result); err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return Credentials{PID: credentials.Pid, UID: credentials.Uid, GID: credentials.Gid}, nil
}

// interruptible makes the end of ctx interrupt I/O by way of setDeadline. The
// function it returns must be called when the I/O is over; it removes the
// deadline.
func interruptible(ctx context.Context, setDeadline func(time.Time) error) func() {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		setDeadline(time.Unix(1, 0)) //nolint:errcheck // fails only on a closed socket
	})
	return func() {
		if !stop() {
			<-interrupted
		}
		setDeadline(time.Time{}) //nolint:errcheck // fails only on a closed socket
	}
}

// cause is why an I/O call failed: the end of ctx, a peer that has gone, or err.
func cause(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET):
		return io.EOF
	}
	return err
}

func name(message proto.Message) string { return string(message.ProtoReflect().Descriptor().Name()) }
