package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

const (
	// fifoTick is how often the FIFO is looked at: nothing tells that a reader
	// waits in open(2). It slows down for a client that starts slowly.
	fifoTick     = 2 * time.Millisecond
	slowFIFOTick = 20 * time.Millisecond
	// fastFIFOTime is how long the fast tick lasts.
	fastFIFOTime = time.Second
	// feedTime bounds how long the client takes to read its state.
	feedTime = 10 * time.Second
	// emptyState is the state of a connection on which no file is open.
	emptyState = `{"Handler":{},"NextFh":2}`
)

// watchFIFO waits until the client opens its FIFO; not in the loop.
func (s *supervisor) watchFIFO(c *client, path string) {
	ticker := time.NewTicker(fifoTick)
	defer ticker.Stop()
	slow := time.AfterFunc(fastFIFOTime, func() { ticker.Reset(slowFIFOTick) })
	defer slow.Stop()
	for {
		select {
		case <-c.process.Done():
			return
		case <-ticker.C:
		}
		// ENXIO: nobody reads. Once open it must stay so, or the client would
		// read the end of the file.
		fifo, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENXIO) {
			continue
		}
		s.post(func() { s.clientWaits(c, fifo, err) })
		return
	}
}

func (s *supervisor) clientWaits(c *client, fifo *os.File, err error) {
	if err != nil {
		s.logger.Error("cannot open the FIFO of the client", logkeys.Error, err)
		c.process.SignalGroup(unix.SIGKILL) //nolint:errcheck // it has ended
		return
	}
	if s.client != c {
		fifo.Close()
		return
	}
	c.fifo = fifo
	s.setState(stateWaiting)
	s.event(&launchv1.Event{Event: &launchv1.Event_Waiting{Waiting: &launchv1.Waiting{}}})
}

// handleRelease feeds the waiting client and opens the gate to the descriptor.
func (s *supervisor) handleRelease(r *request, release *launchv1.Release) error {
	if s.state != stateWaiting || s.stop != nil {
		return fmt.Errorf("release: no client waits (%s): %w", s.state, errdefs.ErrFailedPrecondition)
	}
	var state io.Reader = strings.NewReader(emptyState)
	var file *os.File
	switch len(r.files) {
	case 0:
	case 1:
		file = r.take(0)
		state = stateReader(file)
	default:
		return fmt.Errorf("release: %d descriptors came along, want one at most: %w", len(r.files), errdefs.ErrInvalidArgument)
	}
	if id := release.GetSessionId(); id != 0 {
		s.sessionID = id
	}
	s.setState(stateStarting)
	c := s.client
	fifo := c.fifo
	c.fifo = nil
	go func() {
		err := feed(fifo, state)
		if file != nil {
			file.Close()
		}
		s.post(func() { s.fed(r, c, err) })
	}()
	return nil
}

// feed writes the state into the FIFO and closes it.
func feed(fifo *os.File, state io.Reader) error {
	err := fifo.SetWriteDeadline(time.Now().Add(feedTime))
	if err == nil {
		_, err = io.Copy(fifo, state)
	}
	return errors.Join(err, fifo.Close())
}

func (s *supervisor) fed(r *request, c *client, err error) {
	switch {
	case err != nil:
		// What it has read is useless: it must not serve with half a state.
		c.process.SignalGroup(unix.SIGKILL) //nolint:errcheck // it has ended
		r.fail(fmt.Errorf("release: feed the client its state: %w: %w", err, errdefs.ErrUnavailable))
	case s.client != c:
		r.fail(fmt.Errorf("release: the client has ended: %w", errdefs.ErrUnavailable))
	default:
		s.descriptors.Admit(c.process.PID)
		r.reply(&launchv1.Reply{Result: &launchv1.Reply_Release{Release: &launchv1.ReleaseResult{}}}, nil)
	}
}
