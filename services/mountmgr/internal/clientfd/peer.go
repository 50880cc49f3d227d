package clientfd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// peerTimeout bounds one exchange with a client's supervisor, which answers
// from memory.
const peerTimeout = 2 * time.Second

// Held is what a client's supervisor holds.
type Held struct {
	// Settings of the connection; empty when they are not known.
	Settings []byte
	// Fuse is owned by whoever has the Held.
	Fuse *os.File
	// PID of the supervisor, as we see it.
	PID int
}

// Close closes the descriptor.
func (h Held) Close() {
	if h.Fuse != nil {
		h.Fuse.Close()
	}
}

// Borrow asks the supervisor that listens on the socket name in directory for
// what it holds, gives it back on the same connection and returns a duplicate.
// errdefs.ErrNotFound when it holds nothing, errdefs.ErrUnavailable when nobody
// listens. The socket is looked up without following links: the directory
// belongs to a mount pod.
func Borrow(ctx context.Context, directory *os.File, name string) (Held, error) {
	conn, held, err := ask(ctx, directory, name)
	if err != nil {
		return Held{}, err
	}
	defer conn.Close()                         //nolint:errcheck // the exchange is over
	err = Send(conn, payload(held), held.Fuse) // Without an answer the supervisor would forget it.
	if err != nil {
		_, err = Give(ctx, directory, name, held)
	}
	if err != nil {
		held.Close()
		return Held{}, fmt.Errorf("give the descriptor back to the client: %w", err)
	}
	return held, nil
}

// Take takes what the supervisor holds away from it: when its client ends, it
// ends as well instead of starting another one.
func Take(ctx context.Context, directory *os.File, name string) (Held, error) {
	conn, held, err := ask(ctx, directory, name)
	if err != nil {
		return Held{}, err
	}
	defer conn.Close()                        //nolint:errcheck // the exchange is over
	_ = Send(conn, []byte(Closed), held.Fuse) // It has let go already when it sent.
	return held, nil
}

// Give returns what was taken to the supervisor, and which process that is. held
// stays the caller's.
func Give(ctx context.Context, directory *os.File, name string, held Held) (int, error) {
	conn, err := dial(ctx, directory, name)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // the exchange is over
	credentials, err := PeerCredentials(conn)
	if err != nil {
		return 0, err
	}
	_, files, err := Receive(conn)
	if err != nil {
		return 0, err
	}
	CloseFiles(files) // What it has, if anything, is replaced.
	return int(credentials.Pid), Send(conn, payload(held), held.Fuse)
}

func payload(held Held) []byte {
	if len(held.Settings) == 0 {
		return []byte(noSettings)
	}
	return held.Settings
}

func ask(ctx context.Context, directory *os.File, name string) (*net.UnixConn, Held, error) {
	conn, err := dial(ctx, directory, name)
	if err != nil {
		return nil, Held{}, err
	}
	held, err := receiveHeld(conn)
	if err != nil {
		conn.Close() //nolint:errcheck // the first error counts
		return nil, Held{}, err
	}
	return conn, held, nil
}

func receiveHeld(conn *net.UnixConn) (Held, error) {
	credentials, err := PeerCredentials(conn)
	if err != nil {
		return Held{}, err
	}
	settings, files, err := Receive(conn)
	if err != nil {
		return Held{}, err
	}
	if len(files) < 2 {
		CloseFiles(files)
		return Held{}, fmt.Errorf("the client's supervisor holds no descriptor: %w", errdefs.ErrNotFound)
	}
	CloseFiles(files[:1])
	CloseFiles(files[2:])
	held := Held{Fuse: files[1], PID: int(credentials.Pid)}
	if string(settings) != noSettings {
		held.Settings = settings
	}
	return held, nil
}

func dial(ctx context.Context, directory *os.File, name string) (*net.UnixConn, error) {
	descriptor, err := unix.Openat2(int(directory.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w (%w)", name, err, errdefs.ErrUnavailable)
	}
	entry := os.NewFile(uintptr(descriptor), name)
	defer entry.Close()
	if info, err := entry.Stat(); err != nil || info.Mode().Type() != os.ModeSocket {
		return nil, errors.Join(fmt.Errorf("%s is not a socket: %w", name, errdefs.ErrInvalidArgument), err)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	// The path may be longer than a socket address.
	path := filepath.Join("/proc/self/fd", strconv.Itoa(descriptor))
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w (%w)", name, err, errdefs.ErrUnavailable)
	}
	socket, isUnix := conn.(*net.UnixConn)
	if !isUnix {
		return nil, fmt.Errorf("connect to %s: got a %T", name, conn)
	}
	if err := socket.SetDeadline(time.Now().Add(peerTimeout)); err != nil {
		socket.Close() //nolint:errcheck // the first error counts
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	return socket, nil
}

// fuseMajor and fuseMinor are the device number of /dev/fuse.
const (
	fuseMajor = 10
	fuseMinor = 229
)

// IsFuse says whether file is a descriptor of /dev/fuse.
func IsFuse(file *os.File) bool {
	var stat unix.Stat_t
	err := unix.Fstat(int(file.Fd()), &stat)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(fuseMajor, fuseMinor)
}
