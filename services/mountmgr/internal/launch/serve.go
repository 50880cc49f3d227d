// Package launch is PID 1 of a mount pod: it prepares the JuiceFS client, starts
// it as its child, holds a copy of its /dev/fuse descriptor, starts it again
// when it crashes, and does what the mount manager asks over a socket.
package launch

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

// Options are the settings of Serve.
type Options struct {
	// Socket is where the mount manager connects.
	Socket string
	// TerminationLog is written when the mount fails, if it exists.
	TerminationLog string
	// StateDirectory is where the client writes its state: /tmp.
	StateDirectory string
	// RestartPause is the wait before the third start of a client that keeps
	// ending; it doubles from there. The second start is at once.
	RestartPause time.Duration
	// Environment is the program's own, of which PATH, HOME and TZ are passed on.
	Environment []string
	// PassEnv are names of further variables that are passed on.
	PassEnv []string
	// ReapOrphans is set for PID 1.
	ReapOrphans bool
	// Output receives what the stages and the client print.
	Output io.Writer
	// Logger is for the program's own records.
	Logger *slog.Logger
}

// AddFlags registers the flags of serve.
func (o *Options) AddFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.Socket, "socket", "", "path of the `socket` that the mount manager connects to")
	passEnvFlag(flags, &o.PassEnv)
	flags.DurationVar(&o.RestartPause, "restart-pause", 100*time.Millisecond,
		"`wait` before a client that ended twice is started again; doubles up to 5s")
	flags.StringVar(&o.TerminationLog, "termination-log", defaultTerminationLog, terminationLogUsage)
}

// Validate says what is missing.
func (o Options) Validate() error {
	if !filepath.IsAbs(o.Socket) {
		return fmt.Errorf("socket %q must be an absolute path", o.Socket)
	}
	return nil
}

// Serve works until there is nothing left to do and returns the exit code of
// the program: 0 when the mount was given up in order, 1 when it failed. The
// end of ctx ends it at once. SIGTERM and SIGINT do not: the client goes on
// serving as long as kubelet lets it.
func Serve(ctx context.Context, options Options) (int, error) {
	directory, err := os.MkdirTemp(options.StateDirectory, "jfs-launch-")
	if err != nil {
		return 1, fmt.Errorf("make private directory: %w", err)
	}
	defer os.RemoveAll(directory) //nolint:errcheck // the container ends
	// Only root of the node and our own user get past the mode of the socket,
	// so its peers need no further check.
	listener, err := fdpass.Listen(options.Socket, 0o600)
	if err != nil {
		return 1, err
	}
	defer listener.Close() //nolint:errcheck // the container ends
	descriptors, err := clientfd.Listen(filepath.Join(directory, descriptorSocket), options.Logger)
	if err != nil {
		return 1, err
	}
	defer descriptors.Close() //nolint:errcheck // the container ends

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	log := output.NewLog(options.Output)
	defer func() {
		ended, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		log.Close(ended.Done())
	}()
	s := newSupervisor(options, directory, descriptors, log)
	go s.processes.Run(ctx)
	go s.acceptManagers(ctx, listener)
	return s.run(ctx, signals), nil
}

// run is the loop that owns the state of s; whatever else happens, happens in
// functions that were given to post.
func (s *supervisor) run(ctx context.Context, signals <-chan os.Signal) int {
	defer close(s.ended)
	defer s.killClient()
	for !s.finished {
		select {
		case <-ctx.Done():
			return 1
		case action := <-s.inbox:
			action()
		case served := <-s.descriptors.Served():
			s.clientServes(served)
		case number := <-signals:
			s.logger.Info("signal received", logkeys.Signal, number.String())
			if number != unix.SIGHUP {
				s.terminate()
			}
		}
	}
	if s.manager != nil {
		s.manager.finish(flushTimeout)
	}
	return s.exitCode
}

// killClient leaves no client behind when the program is not PID 1.
func (s *supervisor) killClient() {
	if s.client != nil {
		s.client.process.SignalGroup(unix.SIGKILL) //nolint:errcheck // it has ended
	}
}

// flushTimeout bounds how long the end waits for slow readers.
const flushTimeout = time.Second

func newSupervisor(options Options, directory string, descriptors *clientfd.Server, log *output.Log) *supervisor {
	return &supervisor{
		options:     options,
		directory:   directory,
		descriptors: descriptors,
		logger:      options.Logger,
		runner:      runner{processes: process.NewTable(options.ReapOrphans), own: options.Environment, log: log},
		inbox:       make(chan func(), 16),
		ended:       make(chan struct{}),
		mask:        new(output.Mask),
		state:       stateIdle,
	}
}
