// Package keeper serves the socket that JFS_SUPER_COMM names: there the
// supervisor of a JuiceFS client that makes its own mount asks for the FUSE
// descriptor when it starts, and deposits it when its client serves. So the
// connection outlives the whole mount pod.
//
// The protocol is that of package clientfd: every connection is one exchange
// and the server talks first. A keeper holds no descriptor itself: those are
// in custody, and what it sends are duplicates.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
)

// SocketName is the name of the socket in the directory that keeper and mount
// pod share.
const SocketName = "fuse_fd_csi_comm.sock"

const (
	// exchangeTimeout bounds each message of an exchange.
	exchangeTimeout = 2 * time.Second
	// retryInterval paces attempts to reach a custody that is away.
	retryInterval = 100 * time.Millisecond
	// socketMode lets root connect only.
	socketMode = 0o600
)

// Custody is where descriptors are kept. It must be safe for concurrent use.
type Custody interface {
	// Get returns settings and a duplicate of the descriptor, which the caller
	// owns; errdefs.ErrNotFound when there is none.
	Get(ctx context.Context) ([]byte, *os.File, error)
	// Put deposits a duplicate of fuse and replaces what was there.
	Put(ctx context.Context, settings []byte, fuse *os.File) error
}

// Event is what a supervisor did.
type Event struct {
	// PID of the supervisor, as we see it.
	PID int
	// Serves is true when it deposited the descriptor: its client serves. Else
	// it asks for one, and waits for its answer until Open.
	Serves bool
	// Settings of the connection, when it serves.
	Settings []byte
}

// Options are fixed for the life of a Server.
type Options struct {
	Custody Custody
	// Admits says whether the process may have the descriptor; nil admits every
	// process of root.
	Admits func(pid int) bool
	// IsFuse says whether a descriptor may be deposited; nil asks whether it is
	// one of /dev/fuse.
	IsFuse func(*os.File) bool
	// Offering is called before a process gets the descriptor, which stays the
	// caller's; nil for nothing.
	Offering func(pid int, fuse *os.File)
	// Tell gets each Event; it must not block.
	Tell func(Event)
	Log  *slog.Logger
}

// Server is the keeper of one mount pod.
type Server struct {
	options  Options
	listener *net.UnixListener
	null     *os.File
	running  sync.WaitGroup
	stop     context.CancelFunc
	// lifetime ends with Close.
	lifetime context.Context //nolint:containedctx // It is the life of goroutines that connections start.

	mu   sync.Mutex
	gate chan struct{} // closed when open
	open bool
	// fresh is true while the connection does not exist yet.
	fresh bool
}

// Listen serves the socket in directory until Close; one that is there is
// replaced. Nobody is answered before Open. directory stays the caller's.
func Listen(directory *os.File, options Options) (*Server, error) {
	if options.IsFuse == nil {
		options.IsFuse = clientfd.IsFuse
	}
	if options.Offering == nil {
		options.Offering = func(int, *os.File) {}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", SocketName, err)
	}
	listener, err := listen(directory)
	if err != nil {
		null.Close()
		return nil, fmt.Errorf("serve %s: %w", SocketName, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		options: options, listener: listener, null: null, stop: stop, lifetime: ctx, gate: make(chan struct{}),
	}
	s.running.Go(s.accept)
	return s, nil
}

// listen makes the socket under another name first: there is no moment without
// one, and none at which others may connect.
func listen(directory *os.File) (*net.UnixListener, error) {
	base := filepath.Join("/proc/self/fd", strconv.FormatUint(uint64(directory.Fd()), 10))
	temporary, target := filepath.Join(base, "."+SocketName), filepath.Join(base, SocketName)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(temporary, socketMode); err == nil {
		err = os.Rename(temporary, target)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Open lets who waits have its answer. fresh tells that the connection does not
// exist yet, so that a client shall make it; otherwise a client is never told
// that there is none, since it would mount a second time.
func (s *Server) Open(fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = fresh
	if !s.open {
		s.open = true
		close(s.gate)
	}
}

// Settle ends the time in which a client is told to make the connection.
func (s *Server) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = false
}

// Bar keeps everybody waiting from now on.
func (s *Server) Bar() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		s.open = false
		s.gate = make(chan struct{})
	}
}

// Close ends the server; the socket file stays, for the next one to replace.
func (s *Server) Close() error {
	s.stop()
	err := s.listener.Close()
	s.running.Wait()
	return errors.Join(err, s.null.Close())
}

func (s *Server) accept() {
	for conn := range clientfd.Accepted(s.listener, s.options.Log) {
		s.running.Go(func() {
			defer conn.Close() //nolint:errcheck // one exchange a connection
			stop := context.AfterFunc(s.lifetime, func() { _ = conn.Close() })
			defer stop()
			if err := s.exchange(conn); err != nil && s.lifetime.Err() == nil {
				s.options.Log.Warn("exchange with a client's supervisor", logkeys.Error, err)
			}
		})
	}
}

func (s *Server) exchange(conn *net.UnixConn) error {
	peer, err := clientfd.PeerCredentials(conn)
	if err != nil {
		return err
	}
	pid := int(peer.Pid)
	if int(peer.Uid) != os.Geteuid() || s.options.Admits != nil && !s.options.Admits(pid) {
		return fmt.Errorf("process %d of user %d is not of the mount pod: %w", pid, peer.Uid, errdefs.ErrPermissionDenied)
	}
	s.options.Tell(Event{PID: pid})
	if err := s.await(); err != nil {
		return err
	}
	if err := s.offer(conn, pid); err != nil {
		return err
	}
	return s.answer(conn, pid)
}

// await waits for the gate.
func (s *Server) await() error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
		return nil
	case <-s.lifetime.Done():
		return s.lifetime.Err()
	}
}

func (s *Server) offer(conn *net.UnixConn, pid int) error {
	settings, fuse, err := s.hold()
	if err != nil {
		return err
	}
	if fuse != nil {
		defer fuse.Close()
		s.options.Offering(pid, fuse)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return fmt.Errorf("offer descriptor: %w", err)
	}
	return clientfd.Offer(conn, settings, s.null, fuse)
}

// hold returns a duplicate from custody; nil when there is no connection yet.
// While custody is away, or lacks what must be there, it waits.
func (s *Server) hold() ([]byte, *os.File, error) {
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	for {
		ctx, cancel := context.WithTimeout(s.lifetime, exchangeTimeout)
		settings, fuse, err := s.options.Custody.Get(ctx)
		cancel()
		if err == nil {
			return settings, fuse, nil
		}
		if errdefs.IsNotFound(err) && s.isFresh() {
			return nil, nil, nil
		}
		select {
		case <-s.lifetime.Done():
			return nil, nil, s.lifetime.Err()
		case <-ticker.C:
		}
	}
}

func (s *Server) isFresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh
}

// answer reads what the supervisor makes of the offer: nothing or CLOSE, or
// settings and descriptor to deposit.
func (s *Server) answer(conn *net.UnixConn, pid int) error {
	if err := conn.SetReadDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	payload, files, err := clientfd.Receive(conn)
	if err != nil {
		return err
	}
	defer clientfd.CloseFiles(files)
	if len(payload) == 0 || len(files) == 0 || string(payload) == clientfd.Closed {
		return nil
	}
	fuse := files[0]
	if !s.options.IsFuse(fuse) {
		return fmt.Errorf("process %d deposited something else than a FUSE descriptor: %w", pid, errdefs.ErrInvalidArgument)
	}
	return s.deposit(pid, payload, fuse)
}

func (s *Server) deposit(pid int, payload []byte, fuse *os.File) error {
	ctx, cancel := context.WithTimeout(s.lifetime, exchangeTimeout)
	defer cancel()
	settings := slices.Clone(payload)
	if !clientfd.ValidSettings(settings) {
		settings = nil // From before the client read the kernel's INIT request.
		if known, older, err := s.options.Custody.Get(ctx); err == nil {
			older.Close()
			settings = known
		}
	}
	if err := s.options.Custody.Put(ctx, settings, fuse); err != nil {
		return err
	}
	s.mu.Lock()
	s.fresh = false
	s.mu.Unlock()
	s.options.Tell(Event{PID: pid, Serves: true, Settings: settings})
	return nil
}
