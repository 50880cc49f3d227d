package launch

import (
	"context"
	"log/slog"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
)

const (
	stateIdle      = launchv1.Status_STATE_IDLE
	stateStages    = launchv1.Status_STATE_RUNNING_STAGES
	stateStarting  = launchv1.Status_STATE_STARTING_CLIENT
	stateWaiting   = launchv1.Status_STATE_WAITING
	stateServing   = launchv1.Status_STATE_SERVING
	stateHandedOff = launchv1.Status_STATE_HANDED_OFF
	stateFailed    = launchv1.Status_STATE_FAILED
)

// Limits of what happens without the mount manager.
const (
	// maxFailures client ends within failureWindow are too many.
	maxFailures   = 10
	failureWindow = time.Minute
	// longestPause bounds the wait between two starts of a client that keeps
	// ending.
	longestPause = 5 * time.Second
	// readTime is how long a failure waits for the mount manager to read it.
	readTime = 10 * time.Second
	// custodyTime is how long the descriptor of a mount that was in use waits
	// for a mount manager that is away.
	custodyTime = 2 * time.Minute
)

// supervisor is one mount. Only the loop in run touches the fields below inbox.
type supervisor struct {
	options     Options
	directory   string
	descriptors *clientfd.Server
	logger      *slog.Logger
	runner
	// inbox takes what is to be done in the loop; ended is closed after it.
	inbox chan func()
	ended chan struct{}

	manager     *session
	state       launchv1.Status_State
	spec        *launchv1.Spec
	mask        *output.Mask
	sessionID   uint64
	terminating bool
	restarts    uint32

	// attempt counts the starts, to tell late events of an earlier one.
	attempt int
	// stopStages ends the stages that are running.
	stopStages context.CancelFunc
	client     *client
	// served is true once a client has served this mount here.
	served bool
	// failures are the times of the last unexpected ends.
	failures []time.Time

	// handOff and stop are commands whose answer is due.
	handOff *handOff
	stop    *request
	// answering is true from the answer of a HandOff until we know that it was
	// sent; the commands that the mount manager sends upon it wait in deferred.
	answering bool
	deferred  []func()

	finished bool
	exitCode int
}

// post has action done in the loop; it is dropped after the loop has ended.
func (s *supervisor) post(action func()) {
	select {
	case s.inbox <- action:
	case <-s.ended:
	}
}

// after has action done in the loop after a while.
func (s *supervisor) after(pause time.Duration, action func()) {
	time.AfterFunc(pause, func() { s.post(action) })
}

// exit ends the loop.
func (s *supervisor) exit(code int) {
	if !s.finished {
		s.logger.Info("done", logkeys.State, s.state.String(), logkeys.Code, code)
	}
	s.finished, s.exitCode = true, code
}

func (s *supervisor) setState(state launchv1.Status_State) {
	s.state = state
	s.logger.Info("state changed", logkeys.State, state.String(), logkeys.MountID, s.spec.GetMountId())
}

func (s *supervisor) status() *launchv1.Status {
	status := &launchv1.Status{
		State:           s.state,
		MountId:         s.spec.GetMountId(),
		HoldsDescriptor: s.descriptors.Holds(),
		Terminating:     s.terminating,
		Restarts:        s.restarts,
	}
	if s.served {
		status.Settings = s.descriptors.Settings()
	}
	if s.client != nil {
		status.ClientPid = int32(s.client.process.PID)
	}
	return status
}

// terminate notes that kubelet wants the pod to end. Where a client serves it
// goes on: the mount manager moves the mount elsewhere, and what it does not
// move lives until the end of the grace period.
func (s *supervisor) terminate() {
	s.terminating = true
	switch s.state {
	case stateIdle, stateFailed, stateHandedOff:
		s.exit(boolCode(s.state == stateFailed))
	default:
		s.event(&launchv1.Event{Event: &launchv1.Event_Terminating{Terminating: &launchv1.Terminating{}}})
	}
}

func boolCode(failed bool) int {
	if failed {
		return 1
	}
	return 0
}

// fail gives the mount up. The pod ends when the mount manager has had the time
// to read why, or, for a mount that was in use, to borrow the descriptor.
func (s *supervisor) fail(stage string, exit *launchv1.ExitStatus) {
	s.logger.Error("mount failed", logkeys.Stage, stage, logkeys.Code, exit.GetCode(),
		logkeys.Signal, exit.GetSignal(), logkeys.Error, exit.GetError())
	s.setState(stateFailed)
	if err := writeTermination(s.options.TerminationLog, stage, exit); err != nil {
		s.logger.Warn("cannot write the termination message", logkeys.Error, err)
	}
	wait := readTime
	if !s.served {
		s.descriptors.Drop()
	} else if s.manager == nil {
		wait = custodyTime
	}
	attempt := s.attempt
	s.after(wait, func() {
		if s.state == stateFailed && s.attempt == attempt {
			s.exit(1)
		}
	})
}
