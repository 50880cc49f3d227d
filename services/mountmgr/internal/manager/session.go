package manager

import (
	"context"
	"os"
	"time"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// Session is the mount manager's hold on one client, whoever started it. It is
// safe for concurrent use.
type Session interface {
	// Process is the one whose end ends the client.
	Process() launcher.Process
	// Status is what was going on when the session began.
	Status() *launchv1.Status
	// Events delivers what happens; it is closed with the session.
	Events() <-chan *launchv1.Event
	// Start gives the connection to a client; fuse stays the caller's.
	Start(ctx context.Context, start *launchv1.Start, fuse *os.File, state launcher.State) error
	// Release gives a waiting client its state and lets it serve.
	Release(ctx context.Context, sessionID uint64, state launcher.State) error
	// RunStage runs one stage beside the client and tells how it ended;
	// errdefs.ErrNotImplemented where that cannot be.
	RunStage(ctx context.Context, stage *launchv1.Stage) (*launchv1.ExitStatus, bool, error)
	// Alive is false when the process has surely ended.
	Alive() bool
	// SetSession tells the session that a restarted client shall continue.
	SetSession(ctx context.Context, sessionID uint64) error
	// HandOff makes the client write its state and go, and returns the state.
	// context.DeadlineExceeded: it is busy and goes on serving.
	HandOff(ctx context.Context, timeout time.Duration) (launcher.State, error)
	// Borrow returns the settings and a duplicate of the FUSE descriptor, which
	// the caller owns.
	Borrow(ctx context.Context) ([]byte, *os.File, error)
	// Stop ends the client; it does not wait for the end.
	Stop(ctx context.Context, grace time.Duration) error
	// Close ends the session; the client goes on.
	Close()
}

var (
	_ Session = (*launcher.Session)(nil)
	_ Session = (*classic.Session)(nil)
)
