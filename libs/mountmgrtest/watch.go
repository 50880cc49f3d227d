package mountmgrtest

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// watchBuffer is how many changes a watcher may be behind.
const watchBuffer = 256

// watcher is one reader of WatchMounts. Its channel is closed when it is too
// slow.
type watcher struct {
	events chan *mountmgrv1.WatchMountsResponse
}

// WatchMounts implements the contract.
func (f *Fake) WatchMounts(_ *mountmgrv1.WatchMountsRequest, stream grpc.ServerStreamingServer[mountmgrv1.WatchMountsResponse]) error {
	present, events, stop := f.watch()
	defer stop()
	for _, event := range present {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case event, ok := <-events:
			if !ok {
				return fmt.Errorf("watch reads too slowly: %w", errdefs.ErrResourceExhausted)
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}

// watch takes the present mounts and subscribes to changes in one step, so that
// none is missed and none is told twice.
func (f *Fake) watch() (present []*mountmgrv1.WatchMountsResponse, events <-chan *mountmgrv1.WatchMountsResponse, stop func()) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for _, mount := range f.sorted() {
		present = append(present, event(mountmgrv1.WatchMountsResponse_TYPE_ADDED, mount))
	}
	present = append(present, &mountmgrv1.WatchMountsResponse{Type: mountmgrv1.WatchMountsResponse_TYPE_BOOKMARK})
	reader := &watcher{events: make(chan *mountmgrv1.WatchMountsResponse, watchBuffer)}
	f.watchers[reader] = struct{}{}
	return present, reader.events, func() {
		f.mutex.Lock()
		defer f.mutex.Unlock()
		delete(f.watchers, reader)
	}
}

// tell sends a change of mount to all watchers.
func (f *Fake) tell(mount *mountmgrv1.Mount, created bool) {
	kind := mountmgrv1.WatchMountsResponse_TYPE_MODIFIED
	switch {
	case created:
		kind = mountmgrv1.WatchMountsResponse_TYPE_ADDED
	case mount.GetState() == mountmgrv1.MountState_MOUNT_STATE_GONE:
		kind = mountmgrv1.WatchMountsResponse_TYPE_DELETED
	}
	for reader := range f.watchers {
		select {
		case reader.events <- event(kind, mount):
		default:
			close(reader.events)
			delete(f.watchers, reader)
		}
	}
}

func event(kind mountmgrv1.WatchMountsResponse_Type, mount *mountmgrv1.Mount) *mountmgrv1.WatchMountsResponse {
	return &mountmgrv1.WatchMountsResponse{Type: kind, Mount: clone(mount)}
}
