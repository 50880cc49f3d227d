package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// dialTimeout is how long another listener may take to accept a connection
// before it counts as alive but busy.
const dialTimeout = time.Second

// socketMode are the permission bits of a unix socket.
const socketMode = 0o600

// Listener is a net.Listener that knows whether its socket file is still there.
type Listener struct {
	net.Listener
	path  string
	inode uint64
}

// Listen listens on endpoint. A unix socket is open to its own user only; its
// parent directory (0700) is made when it is missing, and a socket that nobody
// listens on any more is replaced. It fails with errdefs.ErrAlreadyExists when
// somebody does, or when the path is not a socket.
func Listen(ctx context.Context, endpoint Endpoint) (*Listener, error) {
	listener, err := listen(ctx, endpoint)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	return listener, nil
}

func listen(ctx context.Context, endpoint Endpoint) (*Listener, error) {
	if endpoint.Network != Unix {
		listener, err := new(net.ListenConfig).Listen(ctx, endpoint.Network, endpoint.Address)
		return &Listener{Listener: listener}, err
	}
	path := endpoint.Address
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The kernel gives the socket file the permission bits that the socket has
	// when it is bound, less the umask: there is no moment at which the file
	// is open to more users than socketMode says.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var result error
		err := raw.Control(func(descriptor uintptr) { result = unix.Fchmod(int(descriptor), socketMode) })
		return errors.Join(err, result)
	}}
	listener, err := config.Listen(ctx, Unix, path)
	if err != nil {
		return nil, err
	}
	if socket, ok := listener.(*net.UnixListener); ok {
		socket.SetUnlinkOnClose(false)
	}
	err = os.Chmod(path, socketMode)
	if err == nil {
		var inode uint64
		if inode, err = inodeOf(path); err == nil {
			return &Listener{Listener: listener, path: path, inode: inode}, nil
		}
	}
	listener.Close()
	return nil, err
}

// removeStale removes a socket file that nobody listens on.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("the path is there and not a socket: %w", errdefs.ErrAlreadyExists)
	}
	connection, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, Unix, path)
	if err == nil {
		connection.Close()
		return fmt.Errorf("another process listens there: %w", errdefs.ErrAlreadyExists)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("see whether another process listens there: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Vanished says that the socket file was removed or replaced, so that nobody
// can connect any more. It is always false for TCP.
func (l *Listener) Vanished() bool {
	if l.path == "" {
		return false
	}
	inode, err := inodeOf(l.path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	return inode != l.inode
}

// Close stops listening and removes the socket file, unless another one has
// taken its place.
func (l *Listener) Close() error {
	if l.path != "" && !l.Vanished() {
		// A file that stays is stale, and the next Listen removes it.
		_ = os.Remove(l.path)
	}
	return l.Listener.Close()
}

func inodeOf(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return stat.Ino, nil
}
