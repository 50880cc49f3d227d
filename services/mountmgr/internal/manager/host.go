package manager

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Host is where clients run, each with a jfs-launch of its own. It must be
// safe for concurrent use.
type Host interface {
	// Create starts a jfs-launch for spec and returns what identifies it from
	// then on; it does not wait for it.
	Create(ctx context.Context, spec mountpod.Spec) (uid string, err error)
	// Connect waits until the jfs-launch greets, or ctx ends.
	Connect(ctx context.Context, client store.Client) (*launcher.Session, error)
	// Reconnect is Connect for a jfs-launch that must be listening already.
	Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error)
	// Delete ends the jfs-launch and all that it has started; a grace of 0 does
	// not wait for them. One that is gone is no error.
	Delete(ctx context.Context, client store.Client, grace time.Duration) error
	// Annotate sets annotations one by one, or removes those whose value is nil;
	// one that is gone is no error, and another of its name is not touched.
	Annotate(ctx context.Context, client store.Client, annotations map[string]*string) error
	// Watch calls changed for everything that runs now and whenever it changes,
	// and removed when it is gone, until ctx ends.
	Watch(ctx context.Context, changed, removed func(*corev1.Pod)) error
}

var _ Host = (*mountpod.Pods)(nil)
