package launcher

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/juicefs-csi/driver/libs/fdpass"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// stateLimit bounds the state file of a client: 200,000 open files.
const stateLimit = 64 << 20

// fuseMajor and fuseMinor are the device number of /dev/fuse.
const (
	fuseMajor = 10
	fuseMinor = 229
)

// State is what a client wrote of its open files when it was told to stop.
type State []byte

// Start gives jfs-launch the connection and makes it start the client; its
// progress comes as events. state may be nil. fuse stays the caller's.
func (s *Session) Start(ctx context.Context, start *launchv1.Start, fuse *os.File, state State) error {
	files := []*os.File{fuse}
	if state != nil {
		file, err := memoryFile(state)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		start.HasState = true
		files = append(files, file)
	}
	return s.simple(ctx, &launchv1.Command{Operation: &launchv1.Command_Start{Start: start}}, files...)
}

// Release gives a waiting client its state and lets it serve. state may be nil.
func (s *Session) Release(ctx context.Context, sessionID uint64, state State) error {
	command := &launchv1.Command{Operation: &launchv1.Command_Release{Release: &launchv1.Release{SessionId: sessionID}}}
	if state == nil {
		return s.simple(ctx, command)
	}
	file, err := memoryFile(state)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return s.simple(ctx, command, file)
}

// SetSession tells the session that a restarted client shall continue.
func (s *Session) SetSession(ctx context.Context, sessionID uint64) error {
	set := &launchv1.SetSession{SessionId: sessionID}
	return s.simple(ctx, &launchv1.Command{Operation: &launchv1.Command_SetSession{SetSession: set}})
}

// RunStage runs a command beside the client that serves and returns how it
// ended, and whether that counts as success. errdefs.ErrNotImplemented of a
// jfs-launch that is too old.
func (s *Session) RunStage(ctx context.Context, stage *launchv1.Stage) (*launchv1.ExitStatus, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, stage.GetTimeout().AsDuration()+replyTimeout)
	defer cancel()
	run := &launchv1.RunStage{Stage: stage}
	message, files, err := s.command(ctx, &launchv1.Command{Operation: &launchv1.Command_RunStage{RunStage: run}})
	fdpass.CloseFiles(files)
	if err != nil {
		return nil, false, fmt.Errorf("run stage %s: %w", stage.GetName(), err)
	}
	return message.GetRunStage().GetExit(), message.GetRunStage().GetSucceeded(), nil
}

// HandOff makes the client write its state and go, and returns the state, nil
// when it wrote none. context.DeadlineExceeded: it is busy and goes on
// serving.
func (s *Session) HandOff(ctx context.Context, timeout time.Duration) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+replyTimeout)
	defer cancel()
	handOff := &launchv1.HandOff{Timeout: durationpb.New(timeout)}
	message, files, err := s.command(ctx, &launchv1.Command{Operation: &launchv1.Command_HandOff{HandOff: handOff}})
	if err != nil {
		return nil, fmt.Errorf("hand off: %w", err)
	}
	defer fdpass.CloseFiles(files)
	if !message.GetHandOff().GetHasState() || len(files) == 0 {
		return nil, nil
	}
	return ReadState(files[0])
}

// Borrow returns the settings and a duplicate of the FUSE descriptor, which
// the caller owns.
func (s *Session) Borrow(ctx context.Context) ([]byte, *os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	message, files, err := s.command(ctx, &launchv1.Command{Operation: &launchv1.Command_Borrow{Borrow: &launchv1.Borrow{}}})
	if err != nil {
		return nil, nil, fmt.Errorf("borrow descriptor: %w", err)
	}
	if len(files) != 1 || !isFuseDevice(files[0]) {
		fdpass.CloseFiles(files)
		return nil, nil, fmt.Errorf("borrow descriptor: jfs-launch sent something else: %w", errdefs.ErrInvalidArgument)
	}
	return message.GetBorrow().GetSettings(), files[0], nil
}

// Stop ends the client and jfs-launch; SIGKILL follows SIGTERM after grace. It
// does not wait for the end.
func (s *Session) Stop(ctx context.Context, grace time.Duration) error {
	stop := &launchv1.Stop{Grace: durationpb.New(grace)}
	return s.simple(ctx, &launchv1.Command{Operation: &launchv1.Command_Stop{Stop: stop}})
}

func (s *Session) simple(ctx context.Context, command *launchv1.Command, files ...*os.File) error {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	_, received, err := s.command(ctx, command, files...)
	fdpass.CloseFiles(received)
	return err
}

// isFuseDevice guards against a mount pod that returns a descriptor of
// something else.
func isFuseDevice(file *os.File) bool {
	var stat unix.Stat_t
	err := unix.Fstat(int(file.Fd()), &stat)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(fuseMajor, fuseMinor)
}

// ReadState copies a state file. Only a regular file is read: anything else
// could make us wait.
func ReadState(file *os.File) (State, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("stat state file: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size > stateLimit {
		return nil, fmt.Errorf("state file is no regular file of at most %d bytes: %w", stateLimit, errdefs.ErrInvalidArgument)
	}
	state, err := io.ReadAll(io.NewSectionReader(file, 0, stat.Size))
	if err != nil {
		return nil, fmt.Errorf("read state file: %w", err)
	}
	return state, nil
}

func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), "state")
	if _, err := file.WriteAt(content, 0); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	return file, nil
}
