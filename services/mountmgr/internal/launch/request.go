package launch

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/fdpass"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// request is a command that awaits its reply.
type request struct {
	from    *session
	command *launchv1.Command
	// files came with the command; those that nobody took are closed.
	files []*os.File
}

// take hands file number index over to the caller.
func (r *request) take(index int) *os.File {
	file := r.files[index]
	r.files[index] = nil
	return file
}

// reply answers with the result in reply, whose files it takes over. sent, if
// not nil, learns whether the mount manager got it.
func (r *request) reply(reply *launchv1.Reply, sent func(error), files ...*os.File) {
	reply.Id = r.command.GetId()
	r.from.send(packet{message: &launchv1.Message{Content: &launchv1.Message_Reply{Reply: reply}}, files: files, sent: sent})
}

// fail answers with err.
func (r *request) fail(err error) {
	r.reply(&launchv1.Reply{Failure: &launchv1.Failure{Code: code(err), Message: err.Error()}}, nil)
}

// Numbers of gRPC codes. The package that names them, and the mapping of
// errdefs, would bring gRPC into a program that must stay small.
const (
	codeInvalidArgument    = 3
	codeDeadlineExceeded   = 4
	codeFailedPrecondition = 9
	codeUnimplemented      = 12
	codeInternal           = 13
	codeUnavailable        = 14
)

// code maps the sentinels that this package uses.
func code(err error) uint32 {
	switch {
	case errors.Is(err, errdefs.ErrInvalidArgument):
		return codeInvalidArgument
	case errors.Is(err, errdefs.ErrFailedPrecondition):
		return codeFailedPrecondition
	case errors.Is(err, errdefs.ErrUnavailable):
		return codeUnavailable
	case errors.Is(err, errdefs.ErrNotImplemented):
		return codeUnimplemented
	case errors.Is(err, os.ErrDeadlineExceeded):
		return codeDeadlineExceeded
	}
	return codeInternal
}

// handle does one command; in the loop.
func (s *supervisor) handle(ctx context.Context, r *request) {
	if s.answering {
		s.deferred = append(s.deferred, func() { s.handle(ctx, r) })
		return
	}
	defer func() { fdpass.CloseFiles(r.files) }()
	var err error
	switch operation := r.command.GetOperation().(type) {
	case *launchv1.Command_Start:
		err = s.handleStart(ctx, r, operation.Start)
	case *launchv1.Command_Release:
		err = s.handleRelease(r, operation.Release)
	case *launchv1.Command_SetSession:
		s.sessionID = operation.SetSession.GetSessionId()
		r.reply(&launchv1.Reply{Result: &launchv1.Reply_SetSession{SetSession: &launchv1.SetSessionResult{}}}, nil)
	case *launchv1.Command_HandOff:
		err = s.handleHandOff(r, operation.HandOff)
	case *launchv1.Command_Borrow:
		err = s.handleBorrow(r)
	case *launchv1.Command_Stop:
		err = s.handleStop(r, operation.Stop)
	case *launchv1.Command_GetStatus:
		r.reply(&launchv1.Reply{Result: &launchv1.Reply_Status{Status: s.status()}}, nil)
	case *launchv1.Command_RunStage:
		err = s.handleRunStage(ctx, r, operation.RunStage.GetStage())
	default:
		err = fmt.Errorf("unknown command: %w", errdefs.ErrNotImplemented)
	}
	if err != nil {
		r.fail(err)
	}
}

func (s *supervisor) handleBorrow(r *request) error {
	file, settings, err := s.descriptors.Duplicate()
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	r.reply(&launchv1.Reply{Result: &launchv1.Reply_Borrow{Borrow: &launchv1.BorrowResult{Settings: settings}}}, nil, file)
	return nil
}
