// Package launcher is the mount manager's side of jfs-launch, PID 1 of a mount
// pod. Nothing that comes from there is trusted: the socket is opened beneath
// the pod's own directory without following links, the peer's uid is checked,
// and sizes are bounded.
package launcher

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// VolumeName is the emptyDir volume of a mount pod that holds the socket, and
// SocketName the socket's name in it.
const (
	VolumeName = "jfs-launch"
	SocketName = "launch.sock"
)

const (
	// dialInterval paces attempts to reach a jfs-launch that is starting.
	dialInterval = 5 * time.Millisecond
	// replyTimeout bounds commands that jfs-launch answers at once.
	replyTimeout = 5 * time.Second
	// eventBacklog is how many events may wait for the mount manager.
	eventBacklog = 64
)

// Session is a connection to one jfs-launch. It is safe for concurrent use.
type Session struct {
	conn  *fdpass.Conn
	hello *launchv1.Hello
	// process is the jfs-launch itself.
	process Process
	events  chan *launchv1.Event
	done    chan struct{}

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan reply
	err     error
}

type reply struct {
	message *launchv1.Reply
	files   []*os.File
}

// socketPath is where kubelet puts the socket of a mount pod, below its pods
// directory.
func socketPath(podUID string) string {
	return filepath.Join(podUID, "volumes", "kubernetes.io~empty-dir", VolumeName, SocketName)
}

// Connect waits until the jfs-launch of a mount pod listens and greets, or ctx
// ends. podsDir is kubelet's pods directory; uid is who the pod runs as.
func Connect(ctx context.Context, podsDir, podUID string, uid uint32) (*Session, error) {
	root, err := os.Open(podsDir)
	if err != nil {
		return nil, fmt.Errorf("open kubelet's pods directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	ticker := time.NewTicker(dialInterval)
	defer ticker.Stop()
	for {
		conn, err := fdpass.DialBeneath(ctx, root, socketPath(podUID))
		if err == nil {
			return greet(ctx, conn, uid)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reach jfs-launch of pod %s: %w (%w)", podUID, err, context.DeadlineExceeded)
		case <-ticker.C:
		}
	}
}

// Reconnect is Connect for a jfs-launch that must be listening already.
func Reconnect(ctx context.Context, podsDir, podUID string, uid uint32) (*Session, error) {
	root, err := os.Open(podsDir)
	if err != nil {
		return nil, fmt.Errorf("open kubelet's pods directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	conn, err := fdpass.DialBeneath(ctx, root, socketPath(podUID))
	if err != nil {
		return nil, fmt.Errorf("reach jfs-launch of pod %s: %w (%w)", podUID, err, errdefs.ErrUnavailable)
	}
	return greet(ctx, conn, uid)
}

func greet(ctx context.Context, conn *fdpass.Conn, uid uint32) (*Session, error) {
	hello, process, err := receiveHello(ctx, conn, uid)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greet jfs-launch: %w", err)
	}
	s := &Session{
		conn: conn, hello: hello, process: process, events: make(chan *launchv1.Event, eventBacklog),
		done: make(chan struct{}), waiting: make(map[uint64]chan reply),
	}
	go s.receive() //nolint:gosec,contextcheck // The session outlives the call that begins it.
	return s, nil
}

func receiveHello(ctx context.Context, conn *fdpass.Conn, uid uint32) (*launchv1.Hello, Process, error) {
	process, err := checkPeer(conn, uid)
	if err != nil {
		return nil, Process{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	var message launchv1.Message
	files, err := conn.Receive(ctx, &message)
	fdpass.CloseFiles(files)
	if err != nil {
		return nil, Process{}, err
	}
	hello := message.GetEvent().GetHello()
	if hello == nil {
		return nil, Process{}, fmt.Errorf("first message is no greeting: %w", errdefs.ErrInvalidArgument)
	}
	theirs := apiversion.Range{Version: hello.GetVersion(), MinVersion: hello.GetMinVersion()}
	return hello, process, apiversion.Launch().Check(theirs)
}

func checkPeer(conn *fdpass.Conn, uid uint32) (Process, error) {
	peer, err := conn.Peer()
	if err != nil {
		return Process{}, err
	}
	if peer.UID != uid {
		return Process{}, fmt.Errorf("peer has uid %d instead of %d: %w", peer.UID, uid, errdefs.ErrPermissionDenied)
	}
	if peer.PID == 0 {
		return Process{}, fmt.Errorf("peer is not in our pid namespace: run the mount manager with hostPID: %w", errdefs.ErrFailedPrecondition)
	}
	return Identify(peer.PID)
}

// Process is the jfs-launch of this session.
func (s *Session) Process() Process { return s.process }

// Status is what jfs-launch was doing when the session began.
func (s *Session) Status() *launchv1.Status { return s.hello.GetStatus() }

// Events delivers what happens in the mount pod; it is closed with the session.
func (s *Session) Events() <-chan *launchv1.Event { return s.events }

// Close ends the session; jfs-launch and its client go on.
func (s *Session) Close() { _ = s.conn.Close() }

// receive ends with the connection. Its context is the session itself.
func (s *Session) receive() {
	defer close(s.events)
	for {
		var message launchv1.Message
		files, err := s.conn.Receive(context.Background(), &message)
		if err != nil {
			s.end(err)
			return
		}
		if event := message.GetEvent(); event != nil {
			fdpass.CloseFiles(files)
			select {
			case s.events <- event:
			default:
				s.end(fmt.Errorf("%d events wait: %w", eventBacklog, errdefs.ErrResourceExhausted))
				return
			}
			continue
		}
		s.deliver(reply{message: message.GetReply(), files: files})
	}
}

func (s *Session) deliver(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiter := s.waiting[r.message.GetId()]
	if waiter == nil {
		fdpass.CloseFiles(r.files) // Its caller has given up.
		return
	}
	delete(s.waiting, r.message.GetId())
	waiter <- r // It has room for the one reply.
}

func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	close(s.done)
	_ = s.conn.Close()
}

// command sends one command and waits for its reply until ctx ends. The caller
// owns the returned files.
func (s *Session) command(ctx context.Context, command *launchv1.Command, files ...*os.File) (*launchv1.Reply, []*os.File, error) {
	waiter := make(chan reply, 1)
	s.mu.Lock()
	s.lastID++
	command.Id = s.lastID
	s.waiting[command.GetId()] = waiter
	s.mu.Unlock()
	failure := s.conn.Send(ctx, command, files...)
	if failure != nil {
		failure = fmt.Errorf("send to jfs-launch: %w (%w)", failure, errdefs.ErrUnavailable)
	} else {
		select {
		case r := <-waiter:
			return unpack(r)
		case <-s.done:
			failure = fmt.Errorf("jfs-launch is gone: %w (%w)", s.err, errdefs.ErrUnavailable)
		case <-ctx.Done():
			failure = fmt.Errorf("wait for jfs-launch: %w", ctx.Err())
		}
	}
	s.forget(command.GetId())
	select {
	case r := <-waiter:
		return unpack(r) // It came just in time: the state of a hand-over must not be lost.
	default:
		return nil, nil, failure
	}
}

// forget makes deliver drop the reply from now on.
func (s *Session) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, id)
}

func unpack(r reply) (*launchv1.Reply, []*os.File, error) {
	failure := r.message.GetFailure()
	if failure == nil {
		return r.message, r.files, nil
	}
	fdpass.CloseFiles(r.files)
	return nil, nil, errgrpc.ToNative(status.Error(codes.Code(failure.GetCode()), failure.GetMessage()))
}
