package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
)

const (
	// clientStage is the client's name in the termination message.
	clientStage = "client"
	// descriptorSocket is where the client gets its descriptor.
	descriptorSocket = "fuse.sock"
	// maxState bounds a state file, in bytes; one open file takes about 150.
	maxState = 256 << 20
)

// clientStart is how a client starts.
type clientStart struct {
	// state is loaded by the client if not nil; owned by the start.
	state *os.File
	// wait makes the client wait for its state until Release.
	wait bool
}

func (c clientStart) close() {
	if c.state != nil {
		c.state.Close()
	}
}

// client is a running client.
type client struct {
	*started
	tail *output.Tail
	// fifo feeds a waiting client its state.
	fifo *os.File
	// served is true once it gave the descriptor back.
	served bool
}

// startClient starts the client; the descriptor is in place.
func (s *supervisor) startClient(start clientStart) {
	defer start.close()
	s.setState(stateStarting)
	statePath, err := s.placeState(start)
	var c *client
	if err == nil {
		c, err = s.runClient(statePath)
	}
	if err != nil {
		s.clientFailed(&launchv1.ExitStatus{Code: -1, Error: err.Error()})
		return
	}
	s.client = c
	s.logger.Info("client started", logkeys.PID, c.process.PID)
	if start.wait {
		go s.watchFIFO(c, statePath)
	} else {
		s.descriptors.Admit(c.process.PID)
	}
	go func() {
		<-c.process.Done()
		<-c.drained
		s.post(func() { s.clientEnded(c) })
	}()
}

// runClient starts the process of the client.
func (s *supervisor) runClient(statePath string) (*client, error) {
	var variables []string
	if s.sessionID != 0 {
		variables = append(variables, "_JFS_META_SID="+strconv.FormatUint(s.sessionID, 10))
	}
	if statePath != "" {
		variables = append(variables, "_FUSE_STATE_PATH="+statePath)
	}
	return s.startChild(s.spec, s.mask, filepath.Join(s.directory, descriptorSocket), variables...)
}

// startChild starts the client of spec as child: it gets its descriptor from the
// socket instead of mounting.
func (r runner) startChild(spec *launchv1.Spec, mask *output.Mask, socket string, extra ...string) (*client, error) {
	variables := append([]string{
		"JFS_SUPERVISOR=1",
		"JFS_FOREGROUND=1",
		"JFS_INSIDE_CONTAINER=1",
		"_FUSE_FD_COMM=" + socket,
	}, extra...)
	c := &client{tail: new(output.Tail)}
	var err error
	c.started, err = r.start(spec.GetClient().GetArgv(), environment(r.own, spec, variables...), func(line string, isError bool) {
		line = mask.Apply(line)
		r.log.Line(line)
		if isError {
			c.tail.Add(line)
		}
	})
	return c, err
}

// placeState puts the state, or a FIFO for it, where the client will look and
// removes what an earlier client left. It returns "" when there is no state.
func (s *supervisor) placeState(start clientStart) (string, error) {
	if err := os.Remove(s.clientStatePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove old state: %w", err)
	}
	if start.state == nil && !start.wait {
		return "", nil
	}
	path := filepath.Join(s.directory, "state.json")
	// The client renames the file it has loaded, so that nobody loads it twice.
	for _, old := range []string{path, path + ".bak"} {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("remove old state: %w", err)
		}
	}
	if start.wait {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return "", fmt.Errorf("make FIFO for the state: %w", err)
		}
		return path, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("copy state: %w", err)
	}
	_, err = io.Copy(file, stateReader(start.state))
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("copy state: %w", err)
	}
	return path, nil
}

// stateReader reads a state file from its beginning, whoever read it before.
func stateReader(state *os.File) io.Reader { return io.NewSectionReader(state, 0, maxState) }

// clientStatePath is where a client writes its state on SIGHUP; the number is
// its parent's, which is ours.
func (s *supervisor) clientStatePath() string {
	return filepath.Join(s.options.StateDirectory, "state"+strconv.Itoa(os.Getpid())+".json")
}

// clientServes notes that a client gave the descriptor back.
func (s *supervisor) clientServes(report clientfd.Served) {
	if s.client == nil || s.client.process.PID != report.PID || s.client.served {
		return
	}
	s.client.served, s.served = true, true
	s.setState(stateServing)
	s.event(&launchv1.Event{Event: &launchv1.Event_Serving{Serving: &launchv1.Serving{Settings: report.Settings}}})
}

// clientEnded decides what follows the end of a client.
func (s *supervisor) clientEnded(c *client) {
	if c.fifo != nil {
		c.fifo.Close()
	}
	s.client = nil
	s.descriptors.Bar()
	exit := exitStatus(c.process.Status(), c.tail.Lines())
	s.logger.Info("client ended", logkeys.PID, c.process.PID, logkeys.Code, exit.GetCode(), logkeys.Signal, exit.GetSignal())
	switch {
	case s.stop != nil:
		s.tellEnd(exit, false)
		s.finishStop()
	case s.handOff != nil:
		s.finishHandOff()
	default:
		s.clientFailed(exit)
	}
}

// clientFailed follows an end that nobody asked for, or a start that failed.
func (s *supervisor) clientFailed(exit *launchv1.ExitStatus) {
	now := time.Now()
	s.failures = append(s.failures, now)
	for now.Sub(s.failures[0]) > failureWindow {
		s.failures = s.failures[1:]
	}
	switch {
	case s.served && !s.descriptors.Connected():
		s.tellEnd(exit, false)
		s.descriptors.Drop()
		s.exit(0)
	case !s.served || len(s.failures) >= maxFailures:
		s.tellEnd(exit, false)
		s.fail(clientStage, exit)
	default:
		s.restart(exit)
	}
}

// restart starts the client again: with the state that it left, if it did so
// after a SIGHUP from whomever, else with the session only.
func (s *supervisor) restart(exit *launchv1.ExitStatus) {
	s.restarts++
	s.setState(stateStarting)
	s.tellEnd(exit, true)
	state, err := s.openClientState()
	if err != nil {
		s.logger.Warn("the state of the client is lost", logkeys.Error, err)
	}
	start := clientStart{state: state}
	attempt := s.attempt
	s.after(restartPause(s.options.RestartPause, len(s.failures)), func() {
		if s.attempt != attempt || s.state != stateStarting || s.stop != nil {
			start.close()
			return
		}
		if err := s.descriptors.Resend(); err != nil {
			s.logger.Warn("requests of the old client wait some seconds", logkeys.Error, err)
		}
		s.startClient(start)
	})
}

// restartPause is how long to wait after so many failures within the window.
func restartPause(first time.Duration, failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return min(first<<min(failures-2, 10), longestPause)
}

func (s *supervisor) tellEnd(exit *launchv1.ExitStatus, restarting bool) {
	s.event(&launchv1.Event{Event: &launchv1.Event_ClientEnded{ClientEnded: &launchv1.ClientEnded{Exit: exit, Restarting: restarting}}})
}

// openClientState opens the state that the client wrote on SIGHUP; nil without
// an error when there is none.
func (s *supervisor) openClientState() (*os.File, error) {
	file, err := os.OpenFile(s.clientStatePath(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file.Name())
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
