package launch

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/version"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

const (
	// sendTimeout bounds one message to a mount manager that does not read.
	sendTimeout = 5 * time.Second
	// queueLength is how many messages wait for it.
	queueLength = 64
	// acceptPause keeps a failing accept from spinning.
	acceptPause = 100 * time.Millisecond
)

// errNotSent is what a packet's sent function gets when the session has ended.
var errNotSent = errors.New("the mount manager is not connected")

// session is a connection of the mount manager.
type session struct {
	conn *fdpass.Conn

	mutex    sync.Mutex
	closed   bool
	outgoing chan packet
	written  chan struct{}
}

// packet is a message on its way out.
type packet struct {
	message *launchv1.Message
	// files are closed when it is sent or dropped.
	files []*os.File
	// sent is called once, if set, from any goroutine.
	sent func(error)
}

func (p packet) settle(err error) {
	fdpass.CloseFiles(p.files)
	if p.sent != nil {
		p.sent(err)
	}
}

func newSession(ctx context.Context, conn *fdpass.Conn) *session {
	n := &session{conn: conn, outgoing: make(chan packet, queueLength), written: make(chan struct{})}
	// The end of the program still sends what is queued.
	go n.write(context.WithoutCancel(ctx))
	return n
}

func (n *session) write(ctx context.Context) {
	defer close(n.written)
	for p := range n.outgoing {
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		err := n.conn.Send(ctx, p.message, p.files...)
		cancel()
		if err != nil {
			n.conn.Close() //nolint:errcheck // makes the reader end too
		}
		p.settle(err)
	}
}

// send queues p and takes its files over; it never blocks.
func (n *session) send(p packet) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.closed {
		go p.settle(errNotSent)
		return
	}
	select {
	case n.outgoing <- p:
	default:
		n.conn.Close() //nolint:errcheck // makes reader and writer end
		go p.settle(errNotSent)
	}
}

// finish sends what is queued, for limit at most, and ends the session.
func (n *session) finish(limit time.Duration) {
	n.mutex.Lock()
	if !n.closed {
		n.closed = true
		close(n.outgoing)
	}
	n.mutex.Unlock()
	select {
	case <-n.written:
	case <-time.After(limit):
	}
	n.conn.Close() //nolint:errcheck // it has ended
}

// acceptManagers serves the connections of mount managers until ctx ends.
func (s *supervisor) acceptManagers(ctx context.Context, listener *fdpass.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.logger.Warn("cannot accept the mount manager", logkeys.Error, err)
			<-time.After(acceptPause)
			continue
		}
		manager := newSession(ctx, conn)
		s.post(func() { s.connected(manager) })
		go s.readCommands(ctx, manager)
	}
}

func (s *supervisor) readCommands(ctx context.Context, manager *session) {
	for {
		command := new(launchv1.Command)
		files, err := manager.conn.Receive(ctx, command)
		if err != nil {
			s.post(func() { s.disconnected(manager, err) })
			return
		}
		s.post(func() { s.handle(ctx, &request{from: manager, command: command, files: files}) })
	}
}

// connected makes manager the one that hears of events.
func (s *supervisor) connected(manager *session) {
	if old := s.manager; old != nil {
		go old.finish(flushTimeout)
	}
	s.manager = manager
	s.logger.Info("mount manager connected")
	launch := apiversion.Launch()
	s.event(&launchv1.Event{Event: &launchv1.Event_Hello{Hello: &launchv1.Hello{
		Version:    launch.Version,
		MinVersion: launch.MinVersion,
		Release:    version.Release(),
		Status:     s.status(),
	}}})
}

func (s *supervisor) disconnected(manager *session, cause error) {
	go manager.finish(flushTimeout)
	if s.manager != manager {
		return
	}
	s.manager = nil
	s.logger.Info("mount manager disconnected", logkeys.Reason, cause.Error())
	switch s.state {
	case stateHandedOff:
		s.exit(0)
	case stateFailed:
		s.exit(1)
	default: // the next mount manager finds it as it is
	}
}

// event tells the mount manager, if one is connected.
func (s *supervisor) event(event *launchv1.Event) {
	if s.manager != nil {
		s.manager.send(packet{message: &launchv1.Message{Content: &launchv1.Message_Event{Event: event}}})
	}
}
