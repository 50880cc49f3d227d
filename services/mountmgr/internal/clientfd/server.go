// Package clientfd is the supervisor's side of the protocol by which a JuiceFS
// client gets its /dev/fuse descriptor and gives it back: the stream socket
// that _FUSE_FD_COMM names.
//
// Every connection is one exchange and the server talks first: settings bytes
// together with the descriptors [any, fuse]. The client connects once to ask
// for the descriptor and, when it serves, once more to give settings and
// descriptor back. The server sends duplicates only and answers from memory, so
// a client that asks and dies takes nothing away.
package clientfd

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

const (
	// sendTimeout bounds a send to a client, which is one small packet.
	sendTimeout = 2 * time.Second
	acceptPause = 100 * time.Millisecond
)

// Served tells that a client gave the descriptor back: it serves.
type Served struct {
	// PID of the client.
	PID int
	// Settings of the connection, good ones only; nil when neither the client
	// returned nor the server was told good ones.
	Settings []byte
}

// Server hands one descriptor to one client at a time.
type Server struct {
	listener *net.UnixListener
	null     *os.File
	logger   *slog.Logger
	served   chan Served

	mutex      sync.Mutex
	changed    *sync.Cond
	descriptor *os.File
	settings   []byte
	// admitted is the process that may have the descriptor; 0 keeps all waiting.
	admitted int
	closed   bool
}

// Listen makes the socket at path, whose directory must be closed to others,
// and serves it until Close. Nobody is answered before Admit.
func Listen(path string, logger *slog.Logger) (*Server, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		null.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	s := &Server{listener: listener, null: null, logger: logger, served: make(chan Served, 1)}
	s.changed = sync.NewCond(&s.mutex)
	go s.accept()
	return s, nil
}

// SetDescriptor takes file over and offers it with settings, which may be empty.
// A descriptor held before is closed.
func (s *Server) SetDescriptor(file *os.File, settings []byte) {
	s.mutex.Lock()
	old := s.descriptor
	s.descriptor = file
	s.settings = nil
	if ValidSettings(settings) {
		s.settings = slices.Clone(settings)
	}
	s.mutex.Unlock()
	if old != nil {
		old.Close()
	}
}

// Drop closes the descriptor and keeps everybody waiting.
func (s *Server) Drop() {
	s.Bar()
	s.SetDescriptor(nil, nil)
}

// Admit opens the gate for the process pid.
func (s *Server) Admit(pid int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.admitted = pid
	s.changed.Broadcast()
}

// Bar closes the gate: who connects waits.
func (s *Server) Bar() { s.Admit(0) }

// Holds says whether there is a descriptor.
func (s *Server) Holds() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.descriptor != nil
}

// Settings returns the good settings that are known, or nil.
func (s *Server) Settings() []byte {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.settings)
}

// Duplicate returns a new descriptor, which the caller owns, and the settings.
// os.ErrClosed when there is none.
func (s *Server) Duplicate() (*os.File, []byte, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.descriptor == nil {
		return nil, nil, fmt.Errorf("duplicate descriptor: %w", os.ErrClosed)
	}
	descriptor, err := unix.FcntlInt(s.descriptor.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(descriptor), "fuse"), slices.Clone(s.settings), nil
}

// Resend puts the requests that a dead client left unanswered back into the
// queue; see the function of this name.
func (s *Server) Resend() error {
	fuse, _, err := s.Duplicate()
	if err != nil {
		return err
	}
	defer fuse.Close()
	return Resend(fuse)
}

// Connected says whether the kernel's end still exists: false after an umount
// or an abort, and when there is no descriptor.
func (s *Server) Connected() bool {
	file, _, err := s.Duplicate()
	if err != nil {
		return false
	}
	defer file.Close()
	poll := []unix.PollFd{{Fd: int32(file.Fd())}}
	for {
		count, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && (count == 0 || poll[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) == 0)
		}
	}
}

// Served reports clients that gave the descriptor back. One report waits to be
// read; a newer one takes its place.
func (s *Server) Served() <-chan Served { return s.served }

// Close ends the server and closes the descriptor.
func (s *Server) Close() error {
	s.mutex.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mutex.Unlock()
	err := s.listener.Close()
	s.SetDescriptor(nil, nil)
	return err
}

func (s *Server) accept() {
	for conn := range Accepted(s.listener, s.logger) {
		go func() {
			defer conn.Close() //nolint:errcheck // one exchange a connection
			if err := s.exchange(conn); err != nil {
				s.logger.Warn("exchange of the descriptor failed", logkeys.Error, err)
			}
		}()
	}
}

// Accepted yields the connections of a listener until that is closed. Whoever
// gets one closes it.
func Accepted(listener *net.UnixListener, logger *slog.Logger) iter.Seq[*net.UnixConn] {
	return func(yield func(*net.UnixConn) bool) {
		for {
			conn, err := listener.AcceptUnix()
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil:
				logger.Warn("cannot accept a client", logkeys.Error, err)
				<-time.After(acceptPause) // out of descriptors: do not spin
			case !yield(conn):
				return
			}
		}
	}
}

// exchange serves one connection. Reading has no time limit: the client keeps
// the connection open until its mount is done, and its end closes it.
func (s *Server) exchange(conn *net.UnixConn) error {
	pid, err := peer(conn)
	if err != nil {
		return err
	}
	if !s.await(pid) {
		return fmt.Errorf("process %d is not the client", pid)
	}
	if err := s.offer(conn); err != nil {
		return err
	}
	payload, files, err := Receive(conn)
	if err != nil || len(payload) == 0 {
		return nil //nolint:nilerr // it asked only, and has closed the connection
	}
	CloseFiles(files) // The one that comes back is the one that was sent.
	if len(files) > 0 && string(payload) != Closed {
		s.returned(pid, payload)
	}
	return nil
}

// await waits until the gate is open and says whether it is open for pid.
func (s *Server) await(pid int) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for s.admitted == 0 && !s.closed {
		s.changed.Wait()
	}
	return s.admitted == pid && !s.closed
}

// offer sends the settings and the descriptors [any, fuse].
func (s *Server) offer(conn *net.UnixConn) error {
	file, settings, err := s.Duplicate()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("offer descriptor: %w", err)
	}
	return Offer(conn, settings, s.null, file)
}

// returned takes note that the client serves.
func (s *Server) returned(pid int, settings []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.admitted != pid {
		return
	}
	if ValidSettings(settings) {
		s.settings = slices.Clone(settings)
	}
	select {
	case <-s.served:
	default:
	}
	s.served <- Served{PID: pid, Settings: slices.Clone(s.settings)}
}

// peer returns the process at the other end, which must run as our user.
func peer(conn *net.UnixConn) (int, error) {
	credentials, err := PeerCredentials(conn)
	if err != nil {
		return 0, err
	}
	if int(credentials.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("peer runs as user %d", credentials.Uid)
	}
	return int(credentials.Pid), nil
}
