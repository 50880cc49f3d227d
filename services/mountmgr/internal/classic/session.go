package classic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/keeper"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// eventBacklog is how many events may wait for the mount manager.
	eventBacklog = 64
	// giveBackTimeout bounds the return of the descriptor to a busy client.
	giveBackTimeout = 5 * time.Second
)

// Target is a client and the mount that it serves.
type Target struct {
	MountID string
	// MountPath is where the host sees the mount.
	MountPath string
	// DeviceMinor is its connection; 0 while there is none.
	DeviceMinor uint32
	Client      store.Client
}

// checkMount fails with errdefs.ErrUnavailable when the path shows another
// connection: a client that found no keeper has mounted a second time.
func (t Target) checkMount() error {
	minor, err := kernelmount.Minor(t.MountPath)
	if err == nil && t.DeviceMinor != 0 && minor != t.DeviceMinor {
		err = fmt.Errorf("%s shows connection %d instead of %d: %w", t.MountPath, minor, t.DeviceMinor, errdefs.ErrUnavailable)
	}
	return err
}

// ownExchange names the exchange directory of a pod that shares none.
func ownExchange(podUID string) string { return "pod-" + podUID }

// Session is the mount manager's hold on one classic client: what
// launcher.Session is for an unprivileged one. It is safe for concurrent use.
type Session struct {
	node     *Node
	target   Target
	exchange *exchange
	status   *launchv1.Status
	events   chan *launchv1.Event
	lifetime context.Context //nolint:containedctx // It ends with Close.
	stop     context.CancelFunc

	mu      sync.Mutex
	process launcher.Process
	// waits is true until the client may have the descriptor.
	waits  bool
	closed bool
	met    chan struct{}
}

func newSession(n *Node, target Target, e *exchange, state launchv1.Status_State) *Session {
	ctx, stop := context.WithCancel(context.Background())
	return &Session{
		node: n, target: target, exchange: e, status: &launchv1.Status{State: state},
		events: make(chan *launchv1.Event, eventBacklog), lifetime: ctx, stop: stop, met: make(chan struct{}),
	}
}

// Process is the client's supervisor, PID 1 of its pod.
func (s *Session) Process() launcher.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Status is what the client was doing when the session began.
func (s *Session) Status() *launchv1.Status { return s.status }

// Events delivers what happens to the client; it is closed with the session.
func (s *Session) Events() <-chan *launchv1.Event { return s.events }

// Close ends the session; client and keeper go on.
func (s *Session) Close() {
	s.exchange.leave(s)
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.events)
	}
}

func (s *Session) emit(event *launchv1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.events <- event:
	default: // Whoever does not read 64 events will look at the state anyway.
	}
}

// onKeeper hears of a supervisor that asks or deposits.
func (s *Session) onKeeper(event keeper.Event, supervisor launcher.Process) {
	s.follow(supervisor)
	s.mu.Lock()
	waits := s.waits
	s.mu.Unlock()
	switch {
	case event.Serves:
		s.emit(&launchv1.Event{Event: &launchv1.Event_Serving{Serving: &launchv1.Serving{Settings: event.Settings}}})
	case waits:
		s.emit(&launchv1.Event{Event: &launchv1.Event_Waiting{Waiting: &launchv1.Waiting{}}})
	}
}

// follow tells when the supervisor ends. Kubelet starts the container again, and
// the next supervisor gets the descriptor from the keeper.
func (s *Session) follow(supervisor launcher.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if supervisor == s.process || supervisor.PID == 0 {
		return
	}
	if s.process.PID == 0 {
		close(s.met)
	}
	s.process = supervisor
	go func() {
		if supervisor.Wait(s.lifetime) != nil {
			return // The session ends first.
		}
		s.emit(&launchv1.Event{Event: &launchv1.Event_ClientEnded{ClientEnded: &launchv1.ClientEnded{
			Restarting: true, Exit: &launchv1.ExitStatus{Error: "its supervisor ended"},
		}}})
	}()
}

// Meet waits until the client's supervisor asks for the descriptor.
func (s *Session) Meet(ctx context.Context) error {
	select {
	case <-s.met:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("client of mount pod %s does not ask for its descriptor: %w", s.target.Client.PodName, ctx.Err())
	}
}

// Start does nothing: the client was told all when its pod was made.
func (*Session) Start(context.Context, *launchv1.Start, *os.File, launcher.State) error { return nil }

// RunStage fails: nothing but the client runs in its pod.
func (s *Session) RunStage(_ context.Context, stage *launchv1.Stage) (*launchv1.ExitStatus, bool, error) {
	return nil, false, fmt.Errorf("stage %s in classic mount pod %s: %w", stage.GetName(), s.target.Client.PodName, errdefs.ErrNotImplemented)
}

// Alive is false when the client's supervisor has ended or was not met.
func (s *Session) Alive() bool { return s.Process().Running() }

// SetSession does nothing: the session is in the client's environment.
func (*Session) SetSession(context.Context, uint64) error { return nil }

// Release gives a waiting client its state and lets it serve. state may be nil.
func (s *Session) Release(_ context.Context, _ uint64, state launcher.State) error {
	if state != nil {
		if err := s.exchange.writeState(state); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.waits = false
	s.mu.Unlock()
	s.exchange.server.Open(false)
	return nil
}

// HandOff makes the client write its state and go, and returns the state; nil
// when it wrote none, or had ended by itself: whoever waits for its connection
// may have it then. context.DeadlineExceeded: it is busy and goes on serving.
func (s *Session) HandOff(ctx context.Context, timeout time.Duration) (launcher.State, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	supervisor := s.Process()
	stop := cancelAtEnd(ctx, supervisor, cancel)
	state, err := s.handOff(ctx, stop)
	if err != nil && !supervisor.Running() {
		s.exchange.server.Bar()
		return nil, nil // It was killed, and everything in its pod with it.
	}
	if err != nil {
		return nil, fmt.Errorf("hand off: %w", err)
	}
	return state, nil
}

// cancelAtEnd calls cancel when the process ends, unless the returned function
// was called before.
func cancelAtEnd(ctx context.Context, process launcher.Process, cancel func()) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		if process.Wait(ctx) == nil && ctx.Err() == nil {
			cancel()
		}
	}()
	return stop
}

func (s *Session) handOff(ctx context.Context, expected func()) (launcher.State, error) {
	told, err := s.node.parts.Prober.Ready(ctx, s.target.MountPath)
	if err != nil {
		return nil, err
	}
	socket, stateFile, err := exchangeNames(told)
	if err != nil {
		return nil, err
	}
	serving, err := findChild(s.Process(), told.PID)
	if err != nil {
		return nil, err
	}
	if err := s.exchange.remove(stateFile); err != nil { // Of an earlier client.
		return nil, err
	}
	s.exchange.server.Bar()
	expected()
	if err := s.takeAndEnd(ctx, socket, serving); err != nil {
		s.exchange.server.Open(false)
		return nil, err
	}
	state, err := s.exchange.readState(stateFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return state, err
}

// exchangeNames are the names of the supervisor's socket and the client's state
// in the exchange directory.
func exchangeNames(told probe.Client) (socket, stateFile string, err error) {
	socket, stateFile = path.Base(told.CommPath), path.Base(told.StatePath)
	if path.Dir(told.CommPath) != podTemp || path.Dir(told.StatePath) != podTemp ||
		!strings.HasPrefix(socket, supervisorSocket) || !isName(stateFile) {
		return "", "", fmt.Errorf("client %s tells no socket in %s (%q, %q): it cannot hand over: %w",
			told.Version, podTemp, told.CommPath, told.StatePath, errdefs.ErrFailedPrecondition)
	}
	return socket, stateFile, nil
}

// takeAndEnd takes the descriptor from the supervisor and tells the serving
// process to write its state and go; the supervisor then goes as well. A busy
// one gets the descriptor back.
func (s *Session) takeAndEnd(ctx context.Context, socket string, serving launcher.Process) error {
	held, err := clientfd.Take(ctx, s.exchange.directory, socket)
	if err != nil {
		return err
	}
	defer held.Close()
	err = serving.Signal(unix.SIGHUP)
	if err == nil {
		err = s.Process().Wait(ctx)
	}
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	_, failed := clientfd.Give(back, s.exchange.directory, socket, held)
	return errors.Join(err, failed)
}

// Borrow returns the settings and a duplicate of the FUSE descriptor, which the
// caller owns: from the supervisor, or else out of the serving process, when
// the settings are not known.
func (s *Session) Borrow(ctx context.Context) ([]byte, *os.File, error) {
	held, _, err := s.exchange.borrow(ctx)
	if err == nil && !clientfd.IsFuse(held.Fuse) {
		held.Close()
		return nil, nil, fmt.Errorf("the client's supervisor sent something else than a FUSE descriptor: %w", errdefs.ErrInvalidArgument)
	}
	if err == nil {
		return held.Settings, held.Fuse, nil
	}
	s.node.parts.Log.InfoContext(ctx, "descriptor is copied out of the client",
		logkeys.Pod, s.target.Client.PodName, logkeys.Reason, err.Error())
	fuse, err := s.copyOut(ctx)
	return nil, fuse, err
}

func (s *Session) copyOut(ctx context.Context) (*os.File, error) {
	told, err := s.node.parts.Prober.Ready(ctx, s.target.MountPath)
	if err != nil {
		return nil, err
	}
	serving, err := findChild(s.Process(), told.PID)
	if err != nil {
		return nil, err
	}
	number, err := fuseDescriptor(serving)
	if err != nil {
		return nil, err
	}
	fuse, err := serving.File(number)
	if err == nil && !clientfd.IsFuse(fuse) {
		_ = fuse.Close()
		err = fmt.Errorf("descriptor %d of process %d is not of FUSE any more: %w", number, serving.PID, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	return fuse, nil
}

// Stop ends the client at once.
func (s *Session) Stop(context.Context, time.Duration) error {
	return s.Process().Signal(unix.SIGKILL)
}
