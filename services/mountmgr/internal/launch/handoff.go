package launch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// handOff is a HandOff that waits for the end of the client.
type handOff struct{ request *request }

// handleHandOff makes the client write its state and end.
func (s *supervisor) handleHandOff(r *request, command *launchv1.HandOff) error {
	if s.state != stateServing || s.client == nil || s.handOff != nil || s.stop != nil {
		return fmt.Errorf("hand off: no client serves undisturbed (%s): %w", s.state, errdefs.ErrFailedPrecondition)
	}
	timeout := command.GetTimeout().AsDuration()
	if timeout <= 0 {
		return fmt.Errorf("hand off: no time limit: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.Remove(s.clientStatePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("hand off: remove old state: %w", err)
	}
	if err := s.client.process.Signal(unix.SIGHUP); err != nil {
		return fmt.Errorf("hand off: %w: %w", err, errdefs.ErrUnavailable)
	}
	pending := &handOff{request: r}
	s.handOff = pending
	s.after(timeout, func() {
		if s.handOff == pending {
			s.handOff = nil
			r.fail(fmt.Errorf("hand off: the client is still busy after %s: %w", timeout, os.ErrDeadlineExceeded))
		}
	})
	return nil
}

// finishHandOff answers with the state that the client left. The descriptor
// goes only after that: until the answer is out nobody else may know the state.
func (s *supervisor) finishHandOff() {
	r := s.handOff.request
	s.handOff = nil
	state, err := s.openClientState()
	if err != nil {
		s.logger.Warn("the state of the client is lost", logkeys.Error, err)
	}
	var files []*os.File
	if state != nil {
		// Opened anew, because the reader's position is not to be ours.
		copied, err := os.Open("/proc/self/fd/" + strconv.FormatUint(uint64(state.Fd()), 10))
		if err != nil {
			s.logger.Warn("the state of the client is lost", logkeys.Error, err)
		} else {
			files = append(files, copied)
		}
		os.Remove(state.Name()) //nolint:errcheck // removed before the next start
	}
	s.answering = true
	result := &launchv1.HandOffResult{HasState: len(files) > 0}
	r.reply(&launchv1.Reply{Result: &launchv1.Reply_HandOff{HandOff: result}}, func(err error) {
		s.post(func() {
			s.answering = false
			s.handedOff(clientStart{state: state}, err)
			deferred := s.deferred
			s.deferred = nil
			for _, command := range deferred {
				command()
			}
		})
	}, files...)
}

// handedOff ends the hand-over; when its answer was lost, we serve on.
func (s *supervisor) handedOff(own clientStart, err error) {
	if err != nil {
		s.logger.Warn("the mount manager went away in a hand-over, the client is started again", logkeys.Error, err)
		s.restarts++
		s.startClient(own)
		return
	}
	own.close()
	s.descriptors.Drop()
	s.setState(stateHandedOff)
	if s.manager == nil {
		s.exit(0)
	}
}

// handleStop ends the client, and the program after it.
func (s *supervisor) handleStop(r *request, command *launchv1.Stop) error {
	if s.stop != nil {
		return fmt.Errorf("stop: already stopping: %w", errdefs.ErrFailedPrecondition)
	}
	s.stop = r
	switch {
	case s.stopStages != nil:
		s.stopStages()
	case s.client != nil:
		c := s.client
		c.process.Signal(unix.SIGTERM) //nolint:errcheck // it has ended
		s.after(max(command.GetGrace().AsDuration(), time.Millisecond), func() {
			c.process.SignalGroup(unix.SIGKILL) //nolint:errcheck // it has ended
		})
	default:
		s.finishStop()
	}
	return nil
}

// finishStop answers when nothing runs any more.
func (s *supervisor) finishStop() {
	s.descriptors.Drop()
	s.stop.reply(&launchv1.Reply{Result: &launchv1.Reply_Stop{Stop: &launchv1.StopResult{}}}, nil)
	s.exit(0)
}
