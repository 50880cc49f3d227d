package mountmgrtest

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/juicefs-csi/driver/libs/apiversion"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// Fail makes calls of a method ("PublishVolume") fail with err, until it is
// called with nil. It has no effect on GetMount and WatchMounts.
func (f *Fake) Fail(method string, err error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.failures[method] = err
}

// SetReady says whether the mount manager has custody of its mounts. While it
// has not, publish and unpublish are UNAVAILABLE.
func (f *Fake) SetReady(ready bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.ready = ready
}

// SetVersions changes which versions of the contract it speaks.
func (f *Fake) SetVersions(versions apiversion.Range) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.versions = versions
}

// SetAbnormal makes the statistics of a volume tell of a fault; an empty
// message ends it.
func (f *Fake) SetAbnormal(volumeID, message string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.abnormal[volumeID] = message
}

// SetState changes the state of a mount and tells the watchers. It does nothing
// when the mount is unknown.
func (f *Fake) SetState(mountID string, state mountmgrv1.MountState, reason, message string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	mount := f.mounts[mountID]
	if mount == nil {
		return
	}
	mount.State, mount.StateSince = state, timestamppb.Now()
	mount.Reason, mount.Message = reason, message
	f.tell(mount, false)
}

// Published returns the request that published the target, nil when none did.
func (f *Fake) Published(targetPath string) *mountmgrv1.PublishVolumeRequest {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	present := f.targets[targetPath]
	if present == nil {
		return nil
	}
	return proto.CloneOf(present.request)
}

// Handshakes returns the handshakes so far.
func (f *Fake) Handshakes() []*mountmgrv1.HandshakeRequest {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return slices.Clone(f.handshakes)
}
