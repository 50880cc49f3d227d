package launch

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/privateclient"
)

const (
	// removeStage is the name of the removal in the termination message.
	removeStage = "remove"
	// clientStartTime bounds the start of a client, whose own patience with its
	// metadata is 72 seconds.
	clientStartTime = 2 * time.Minute
	// clientEndTime bounds its end.
	clientEndTime = 10 * time.Second
	// progressPause is how often the progress of a removal is told.
	progressPause = 10 * time.Second
)

// RemoveOptions are the settings of Remove.
type RemoveOptions struct {
	OnceOptions

	// Path is the directory to remove, as the file system's root sees it.
	Path string
	// Timeout bounds the removal; 0 does not.
	Timeout time.Duration
}

// AddFlags registers the flags of remove.
func (o *RemoveOptions) AddFlags(flags *flag.FlagSet) {
	o.OnceOptions.AddFlags(flags)
	flags.StringVar(&o.Path, "path", "", "`directory` to remove, absolute in the file system")
	flags.DurationVar(&o.Timeout, "timeout", 0, "time `limit`; 0 for none")
}

// Validate says what is wrong: errdefs.ErrInvalidArgument.
func (o *RemoveOptions) Validate() error {
	if err := o.OnceOptions.Validate(); err != nil {
		return err
	}
	return privateclient.CheckPath(o.Path)
}

// Remove removes the directory options.Path of the file system that spec
// describes, with all that is in it. A missing directory counts as removed. It
// needs no mount, no /dev/fuse and no privilege: the client is started on a
// socket pair. A failure is written to the termination log too.
func Remove(ctx context.Context, spec *launchv1.Spec, options RemoveOptions) error {
	if err := errors.Join(options.Validate(), ValidateSpec(spec)); err != nil {
		return err
	}
	if options.Timeout > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, options.Timeout, fmt.Errorf("took longer than %s", options.Timeout))
		defer cancel()
		ctx = limited
	}
	return options.run(ctx, spec, func(ctx context.Context, stages runner) (string, *launchv1.ExitStatus) {
		r := remover{runner: stages, options: options, spec: spec, mask: newMask(spec)}
		lines, err := r.remove(ctx)
		if err != nil {
			return removeStage, &launchv1.ExitStatus{Code: 1, Stderr: lines, Error: r.mask.Apply(err.Error())}
		}
		return "", nil
	})
}

// remover is one removal.
type remover struct {
	runner
	options RemoveOptions
	spec    *launchv1.Spec
	mask    *output.Mask
}

// remove starts the client, has it remove the directory, and ends it. With an
// error come the last lines that the client printed.
func (r *remover) remove(ctx context.Context) ([]string, error) {
	directory, err := os.MkdirTemp("", "jfs-launch-")
	if err != nil {
		return nil, fmt.Errorf("make private directory: %w", err)
	}
	defer os.RemoveAll(directory) //nolint:errcheck // the container ends
	socket := filepath.Join(directory, descriptorSocket)
	descriptors, err := clientfd.Listen(socket, r.options.Logger)
	if err != nil {
		return nil, err
	}
	defer descriptors.Close() //nolint:errcheck // the container ends
	kernel, descriptor, err := privateclient.Pair()
	if err != nil {
		return nil, err
	}
	descriptors.SetDescriptor(descriptor, nil)
	c, err := r.startChild(r.spec, r.mask, socket)
	if err != nil {
		kernel.Close() //nolint:errcheck // unused
		return nil, err
	}
	descriptors.Admit(c.process.PID)
	err = r.removeWith(ctx, kernel, c)
	r.end(kernel, c)
	return c.tail.Lines(), err
}

// errClientEnded is why a removal ends when its client does.
var errClientEnded = errors.New("the client ended before it was done")

func (r *remover) removeWith(ctx context.Context, kernel *privateclient.Kernel, c *client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-c.process.Done():
			cancel(errClientEnded)
		case <-ctx.Done():
		}
	}()
	starting, stop := context.WithTimeoutCause(ctx, clientStartTime, fmt.Errorf("the client did not start within %s", clientStartTime))
	defer stop()
	if err := kernel.Init(starting); err != nil {
		return err
	}
	told := time.Now()
	err := kernel.RemoveTree(ctx, r.options.Path, func(removed uint64) {
		if now := time.Now(); now.Sub(told) >= progressPause {
			told = now
			r.options.Logger.Info("removing", logkeys.Path, r.options.Path, logkeys.Entries, removed)
		}
	})
	if err != nil {
		return err
	}
	return kernel.Destroy(ctx)
}

// end ends the client: it stops by itself, and in order, when its connection
// does. Before that it asks for the descriptor once more, so that is still here.
func (r *remover) end(kernel *privateclient.Kernel, c *client) {
	kernel.Close() //nolint:errcheck // everything was answered
	select {
	case <-c.process.Done():
	case <-time.After(clientEndTime):
		r.options.Logger.Warn("the client does not end, it is killed", logkeys.PID, c.process.PID)
		c.process.SignalGroup(unix.SIGKILL) //nolint:errcheck // it has ended
		<-c.process.Done()
	}
	<-c.drained
}
