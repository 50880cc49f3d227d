// Package mounter lets the mount manager of this node mount.
package mounter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/version"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// readyFor is how long an answer to Ready counts.
const readyFor = time.Second

// Options says how to reach the mount manager.
type Options struct {
	// Target is where it listens: unix:///path.
	Target string
	// Caller is the name of this program.
	Caller string
	// ReachTimeout is how long a call waits for a mount manager that is being
	// restarted, before kubelet is told.
	ReachTimeout time.Duration
}

// Remote is the mount manager behind a socket. It is safe for concurrent use.
// Errors are those of errdefs with the mount manager's own message.
type Remote struct {
	options    Options
	connection *grpc.ClientConn
	client     mountmgrv1.MountManagerServiceClient

	// connects counts the connections that were made; agreed is the count at
	// which both sides agreed on a version.
	connects atomic.Uint64
	agreed   atomic.Uint64

	mutex sync.Mutex
	ready readiness
}

// readiness is an answer of the mount manager.
type readiness struct {
	at  time.Time
	ok  bool
	err error
}

// Dial makes a connection without waiting for it.
func Dial(options Options) (*Remote, error) {
	remote := &Remote{options: options}
	connection, err := grpcclient.Dial(options.Target, grpcclient.Options{
		Name: options.Caller, OnConnect: func() { remote.connects.Add(1) },
	})
	if err != nil {
		return nil, err
	}
	remote.connection = connection
	remote.client = mountmgrv1.NewMountManagerServiceClient(connection)
	return remote, nil
}

// Close ends the connection.
func (r *Remote) Close() error { return r.connection.Close() }

// Publish makes a volume visible at its target path.
func (r *Remote) Publish(ctx context.Context, request *mountmgrv1.PublishVolumeRequest) error {
	if err := r.agree(ctx); err != nil {
		return err
	}
	_, err := r.client.PublishVolume(ctx, request)
	return err
}

// Unpublish takes a volume away from its target path.
func (r *Remote) Unpublish(ctx context.Context, request *mountmgrv1.UnpublishVolumeRequest) error {
	if err := r.agree(ctx); err != nil {
		return err
	}
	_, err := r.client.UnpublishVolume(ctx, request)
	return err
}

// Stats returns the usage of a volume.
func (r *Remote) Stats(ctx context.Context, request *mountmgrv1.GetVolumeStatsRequest) (*mountmgrv1.GetVolumeStatsResponse, error) {
	if err := r.agree(ctx); err != nil {
		return nil, err
	}
	return r.client.GetVolumeStats(ctx, request)
}

// Ready says whether the mount manager accepts publishes. An answer is a second
// old at most. It fails with errdefs.ErrUnavailable when the mount manager
// cannot be reached, and with errdefs.ErrFailedPrecondition when it is of a
// release that this one does not understand.
func (r *Remote) Ready(ctx context.Context) (bool, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if time.Since(r.ready.at) < readyFor {
		return r.ready.ok, r.ready.err
	}
	response, err := r.handshake(ctx)
	if ctx.Err() == nil {
		r.ready = readiness{at: time.Now(), ok: response.GetReady(), err: err}
	}
	return response.GetReady(), err
}

// agree makes the handshake when there was none over the present connection.
func (r *Remote) agree(ctx context.Context) error {
	for {
		before := r.connects.Load()
		if before != 0 && before == r.agreed.Load() && r.connection.GetState() == connectivity.Ready {
			return nil
		}
		if _, err := r.handshake(ctx); err != nil {
			return err
		}
		after := r.connects.Load()
		// The handshake itself may have made the first connection. When it
		// made a later one, it is not known on which of them it went.
		if after == before || before == 0 && after == 1 {
			r.agreed.Store(after)
			return nil
		}
	}
}

func (r *Remote) handshake(ctx context.Context) (*mountmgrv1.HandshakeResponse, error) {
	ours := apiversion.MountManager()
	limited, cancel := context.WithTimeout(ctx, r.options.ReachTimeout)
	defer cancel()
	response, err := r.client.Handshake(limited, &mountmgrv1.HandshakeRequest{
		Version: ours.Version, MinVersion: ours.MinVersion, Client: r.options.Caller + "/" + version.Release(),
	})
	switch {
	case err == nil:
	case ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err)):
		return nil, fmt.Errorf("the mount manager of this node does not answer at %s, is its pod running? %w: %w",
			r.options.Target, err, errdefs.ErrUnavailable)
	default:
		return nil, fmt.Errorf("handshake with the mount manager: %w", err)
	}
	if err := ours.Check(apiversion.Range{Version: response.GetVersion(), MinVersion: response.GetMinVersion()}); err != nil {
		return nil, fmt.Errorf("handshake with the mount manager: %w", err)
	}
	return response, nil
}
