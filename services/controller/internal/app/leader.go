package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

// errLostLease ends the process: what it does as the leader must stop at once.
var errLostLease = errors.New("another controller became the leader")

// lead waits until this controller is the leader and calls run then, until ctx
// ends or another one takes over. The lease has the name that provisioners of
// this driver name use, so that one of the existing driver's controllers that
// still runs is not the leader too.
func lead(ctx context.Context, options Options, client kubernetes.Interface, logger *slog.Logger, run func(context.Context) error) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("get host name: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, options.LeaderElectionNamespace,
		strings.ReplaceAll(options.DriverName, "/", "-"), client.CoreV1(), client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())})
	if err != nil {
		return fmt.Errorf("make lease: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// LeaderElector runs the callback in a goroutine of its own and does not
	// wait for it; ended does.
	started, ended := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   options.LeaseDuration,
		RenewDeadline:   options.LeaseDuration * 2 / 3,
		RetryPeriod:     options.LeaseDuration / 6,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				close(started)
				defer close(ended)
				logger.Info("controller leads", logkeys.Lease, lock.Describe())
				if err := run(leading); err != nil {
					cancel(err)
				}
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				logger.Info("leader is known", logkeys.Leader, identity, logkeys.Lease, lock.Describe())
			},
		},
	})
	if err != nil {
		return fmt.Errorf("elect leader: %w", err)
	}
	elector.Run(ctx)
	select {
	case <-started:
		lost := ctx.Err() == nil
		cancel(nil)
		<-ended
		if lost {
			return errLostLease
		}
		logger.Debug("controller no longer leads", logkeys.Reason, context.Cause(ctx))
	default:
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
