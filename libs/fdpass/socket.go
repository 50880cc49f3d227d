package fdpass

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// network is SOCK_SEQPACKET in the words of package net.
const network = "unixpacket"

// Listener accepts connections on a socket file.
type Listener struct {
	socket *net.UnixListener
	// directory holds the entry name, whose inode was ours at first.
	directory *os.File
	name      string
	inode     uint64
}

// Listen makes a socket file with the permission bits mode and listens on it. A
// socket that is there already is replaced at once: there is no moment without
// one, and none at which it has other permissions. The path may be longer than
// the 108 bytes of a socket address.
func Listen(path string, mode os.FileMode) (*Listener, error) {
	listener, err := listen(path, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, nil
}

func listen(path string, mode os.FileMode) (*Listener, error) {
	directory, err := openDirectory(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	target := filepath.Join(descriptorPath(directory), filepath.Base(path))
	if info, err := os.Lstat(target); err == nil && info.Mode().Type() != os.ModeSocket {
		directory.Close()
		return nil, fmt.Errorf("not a socket: %w", errdefs.ErrAlreadyExists)
	}
	temporary := filepath.Join(descriptorPath(directory), ".socket-"+strconv.Itoa(os.Getpid()))
	os.Remove(temporary) //nolint:errcheck // left by an earlier process of our pid, if at all
	socket, err := net.ListenUnix(network, &net.UnixAddr{Name: temporary, Net: network})
	if err != nil {
		directory.Close()
		return nil, err
	}
	socket.SetUnlinkOnClose(false)
	listener := &Listener{socket: socket, directory: directory, name: filepath.Base(path)}
	if err := listener.publish(temporary, target, mode); err != nil {
		os.Remove(temporary) //nolint:errcheck // the first error counts
		listener.Close()     //nolint:errcheck // the first error counts
		return nil, err
	}
	return listener, nil
}

// publish gives the socket at temporary its permissions and its name.
func (l *Listener) publish(temporary, target string, mode os.FileMode) error {
	if err := os.Chmod(temporary, mode); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Lstat(temporary, &stat); err != nil {
		return err
	}
	l.inode = stat.Ino
	return os.Rename(temporary, target)
}

// Accept waits for a connection; net.ErrClosed after Close.
func (l *Listener) Accept() (*Conn, error) {
	socket, err := l.socket.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("accept on %s: %w", l.name, err)
	}
	return NewConn(socket), nil
}

// Close stops listening and removes the socket file unless another one has
// taken its place. Accepted connections stay.
func (l *Listener) Close() error {
	entry := filepath.Join(descriptorPath(l.directory), l.name)
	var stat unix.Stat_t
	if err := unix.Lstat(entry, &stat); err == nil && stat.Ino == l.inode {
		os.Remove(entry) //nolint:errcheck // a stale socket is replaced by the next Listen
	}
	l.directory.Close()
	return l.socket.Close()
}

// Dial connects to the socket file at path, which may be longer than 108 bytes.
// It does not wait for a listener.
func Dial(ctx context.Context, path string) (*Conn, error) {
	entry, err := openEntry(unix.AT_FDCWD, path, 0)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return dialEntry(ctx, entry, path)
}

// DialBeneath connects to the socket file rel below the directory root, for
// directories that somebody else can write: no symbolic link is followed, the
// path cannot leave root, and what is not a socket is refused. root stays the
// caller's.
func DialBeneath(ctx context.Context, root *os.File, rel string) (*Conn, error) {
	var entry *os.File
	err := withDescriptors([]*os.File{root}, nil, func(descriptors []int) (err error) {
		entry, err = openEntry(descriptors[0], rel,
			unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s beneath %s: %w", rel, root.Name(), err)
	}
	return dialEntry(ctx, entry, rel)
}

// openEntry opens a socket file without connecting to it.
func openEntry(directory int, path string, resolve uint64) (*os.File, error) {
	descriptor, err := unix.Openat2(directory, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil, err
	}
	entry := os.NewFile(uintptr(descriptor), path)
	info, err := entry.Stat()
	if err == nil && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("not a socket: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		entry.Close()
		return nil, err
	}
	return entry, nil
}

// dialEntry connects to the very file that was opened and closes entry.
func dialEntry(ctx context.Context, entry *os.File, path string) (*Conn, error) {
	defer entry.Close()
	conn, err := new(net.Dialer).DialContext(ctx, network, descriptorPath(entry))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	socket, isUnix := conn.(*net.UnixConn)
	if !isUnix {
		return nil, fmt.Errorf("dial %s: got a %T", path, conn)
	}
	return NewConn(socket), nil
}

func openDirectory(path string) (*os.File, error) {
	descriptor, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(descriptor), path), nil
}

// descriptorPath is a short name for what file refers to.
func descriptorPath(file *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.FormatUint(uint64(file.Fd()), 10))
}
