// Package mountmgrtest has a mount manager for tests, and the test suite that
// it and the real one pass.
package mountmgrtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/version"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// Options says what a Fake is like.
type Options struct {
	// NodeName is told in the handshake; "node-1" when empty.
	NodeName string
	// KubeletDir is where targets must be; anywhere when empty.
	KubeletDir string
}

// Fake is a mount manager without mounts: a target is an empty directory. It
// keeps everything in memory, and volumes share a mount by their volume id. It
// is safe for concurrent use.
type Fake struct {
	mountmgrv1.UnimplementedMountManagerServiceServer
	options Options

	mutex    sync.Mutex
	mounts   map[string]*mountmgrv1.Mount
	targets  map[string]*target
	watchers map[*watcher]struct{}
	made     int

	versions   apiversion.Range
	ready      bool
	handshakes []*mountmgrv1.HandshakeRequest
	failures   map[string]error
	abnormal   map[string]string
}

// target is a published volume.
type target struct {
	mountID string
	request *mountmgrv1.PublishVolumeRequest
}

// NewFake makes a mount manager that is ready and has no mounts.
func NewFake(options Options) *Fake {
	options.NodeName = cmp.Or(options.NodeName, "node-1")
	return &Fake{
		options:  options,
		mounts:   make(map[string]*mountmgrv1.Mount),
		targets:  make(map[string]*target),
		watchers: make(map[*watcher]struct{}),
		versions: apiversion.MountManager(),
		ready:    true,
		failures: make(map[string]error),
		abnormal: make(map[string]string),
	}
}

// Handshake implements the contract.
func (f *Fake) Handshake(_ context.Context, request *mountmgrv1.HandshakeRequest) (*mountmgrv1.HandshakeResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.handshakes = append(f.handshakes, request)
	if err := f.failures["Handshake"]; err != nil {
		return nil, err
	}
	if err := f.versions.Check(apiversion.Range{Version: request.GetVersion(), MinVersion: request.GetMinVersion()}); err != nil {
		return nil, err
	}
	return &mountmgrv1.HandshakeResponse{
		Version: f.versions.Version, MinVersion: f.versions.MinVersion,
		Release: version.Release(), NodeName: f.options.NodeName,
		MaxCrashProtection: mountmgrv1.CrashProtection_CRASH_PROTECTION_FULL,
		Ready:              f.ready,
	}, nil
}

// PublishVolume implements the contract.
func (f *Fake) PublishVolume(_ context.Context, request *mountmgrv1.PublishVolumeRequest) (*mountmgrv1.PublishVolumeResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if err := f.refuse("PublishVolume", request.GetVolumeId(), request.GetTargetPath()); err != nil {
		return nil, err
	}
	if request.GetAccessMode() == mountmgrv1.AccessMode_ACCESS_MODE_UNSPECIFIED {
		return nil, fmt.Errorf("access_mode is not set: %w", errdefs.ErrInvalidArgument)
	}
	if present := f.targets[request.GetTargetPath()]; present != nil {
		if err := sameRequest(present.request, request); err != nil {
			return nil, err
		}
		return &mountmgrv1.PublishVolumeResponse{Mount: clone(f.mounts[present.mountID])}, nil
	}
	if err := f.singleWriter(request); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(request.GetTargetPath(), 0o750); err != nil {
		return nil, fmt.Errorf("make target: %w", err)
	}
	mount, created := f.mountOf(request)
	mount.References = append(mount.References, &mountmgrv1.Reference{
		VolumeId: request.GetVolumeId(), TargetPath: request.GetTargetPath(), Pod: request.GetPod(), Since: timestamppb.Now(),
	})
	f.targets[request.GetTargetPath()] = &target{mountID: mount.GetId(), request: proto.CloneOf(request)}
	f.tell(mount, created)
	return &mountmgrv1.PublishVolumeResponse{Mount: clone(mount), Created: created}, nil
}

// refuse fails like the real one does before it looks at a target.
func (f *Fake) refuse(method, volumeID, path string) error {
	switch {
	case f.failures[method] != nil:
		return f.failures[method]
	case !f.ready:
		return fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	case volumeID == "":
		return fmt.Errorf("volume_id is empty: %w", errdefs.ErrInvalidArgument)
	case path == "":
		return fmt.Errorf("target_path is empty: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return fmt.Errorf("target_path %s is not an absolute, clean path: %w", path, errdefs.ErrInvalidArgument)
	case f.options.KubeletDir != "" && !strings.HasPrefix(path, f.options.KubeletDir+"/"):
		return fmt.Errorf("target_path %s is not below the kubelet directory %s: %w", path, f.options.KubeletDir, errdefs.ErrInvalidArgument)
	}
	return nil
}

// sameRequest is what CSI calls compatible: context and secrets may change,
// since kubelet repeats a publish with new tokens.
func sameRequest(present, wanted *mountmgrv1.PublishVolumeRequest) error {
	path := present.GetTargetPath()
	switch {
	case present.GetVolumeId() != wanted.GetVolumeId():
		return fmt.Errorf("target_path %s shows volume %s already: unpublish it first: %w", path, present.GetVolumeId(), errdefs.ErrAlreadyExists)
	case present.GetReadOnly() != wanted.GetReadOnly() || present.GetAccessMode() != wanted.GetAccessMode():
		return fmt.Errorf("target_path %s shows volume %s already with another access: unpublish it first: %w",
			path, present.GetVolumeId(), errdefs.ErrAlreadyExists)
	}
	return nil
}

// singleWriter keeps a volume of ReadWriteOncePod at one target.
func (f *Fake) singleWriter(request *mountmgrv1.PublishVolumeRequest) error {
	const single = mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER
	for path, other := range f.targets {
		if other.request.GetVolumeId() != request.GetVolumeId() {
			continue
		}
		if request.GetAccessMode() == single || other.request.GetAccessMode() == single {
			return fmt.Errorf("volume %s has access mode SINGLE_NODE_SINGLE_WRITER and is published at %s: %w",
				request.GetVolumeId(), path, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// mountOf finds the mount of the volume or makes one.
func (f *Fake) mountOf(request *mountmgrv1.PublishVolumeRequest) (mount *mountmgrv1.Mount, created bool) {
	for _, mount := range f.mounts {
		if mount.GetUniqueId() == request.GetVolumeId() {
			return mount, false
		}
	}
	f.made++
	now := timestamppb.Now()
	mount = &mountmgrv1.Mount{
		Id: fmt.Sprintf("mount-%06d", f.made), State: mountmgrv1.MountState_MOUNT_STATE_SERVING, StateSince: now, CreatedAt: now,
		UniqueId: request.GetVolumeId(), ShareMode: mountmgrv1.ShareMode_SHARE_MODE_VOLUME, ReadOnly: request.GetReadOnly(),
		FileSystem: cmp.Or(request.GetSecrets()["name"], "fake"), DeviceMinor: uint32(f.made),
		Client: &mountmgrv1.Client{
			PodNamespace: "kube-system", PodName: fmt.Sprintf("juicefs-%s-%06d", f.options.NodeName, f.made),
			Image: "juicefs/mount:fake", Version: "1.3.1", StartedAt: now, Mode: mountmgrv1.Client_MODE_POD,
		},
		Custody:          &mountmgrv1.Custody{Vault: true, Launcher: true, Client: true},
		WantedProtection: mountmgrv1.CrashProtection_CRASH_PROTECTION_FULL,
		Protection:       mountmgrv1.CrashProtection_CRASH_PROTECTION_FULL,
	}
	f.mounts[mount.GetId()] = mount
	return mount, true
}

// UnpublishVolume implements the contract.
func (f *Fake) UnpublishVolume(_ context.Context, request *mountmgrv1.UnpublishVolumeRequest) (*mountmgrv1.UnpublishVolumeResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	path := request.GetTargetPath()
	if err := f.refuse("UnpublishVolume", request.GetVolumeId(), path); err != nil {
		return nil, err
	}
	present := f.targets[path]
	if present == nil {
		return &mountmgrv1.UnpublishVolumeResponse{}, nil
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove target: %w", err)
	}
	delete(f.targets, path)
	mount := f.mounts[present.mountID]
	mount.References = slices.DeleteFunc(mount.GetReferences(), func(r *mountmgrv1.Reference) bool { return r.GetTargetPath() == path })
	if len(mount.GetReferences()) == 0 {
		mount.State, mount.StateSince = mountmgrv1.MountState_MOUNT_STATE_GONE, timestamppb.Now()
		delete(f.mounts, mount.GetId())
	}
	f.tell(mount, false)
	return &mountmgrv1.UnpublishVolumeResponse{}, nil
}

// GetVolumeStats implements the contract.
func (f *Fake) GetVolumeStats(_ context.Context, request *mountmgrv1.GetVolumeStatsRequest) (*mountmgrv1.GetVolumeStatsResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	switch {
	case f.failures["GetVolumeStats"] != nil:
		return nil, f.failures["GetVolumeStats"]
	case request.GetVolumeId() == "":
		return nil, fmt.Errorf("volume_id is empty: %w", errdefs.ErrInvalidArgument)
	case request.GetVolumePath() == "":
		return nil, fmt.Errorf("volume_path is empty: %w", errdefs.ErrInvalidArgument)
	}
	present := f.targets[request.GetVolumePath()]
	if present == nil || present.request.GetVolumeId() != request.GetVolumeId() {
		return nil, fmt.Errorf("volume %s is not published at %s: %w", request.GetVolumeId(), request.GetVolumePath(), errdefs.ErrNotFound)
	}
	if message := f.abnormal[request.GetVolumeId()]; message != "" {
		return &mountmgrv1.GetVolumeStatsResponse{Abnormal: true, Message: message}, nil
	}
	return &mountmgrv1.GetVolumeStatsResponse{
		Bytes:  &mountmgrv1.Usage{Total: 1 << 40, Used: 1 << 30, Available: 1<<40 - 1<<30},
		Inodes: &mountmgrv1.Usage{Total: 10 << 20, Used: 100, Available: 10<<20 - 100},
	}, nil
}

// GetMount implements the contract.
func (f *Fake) GetMount(_ context.Context, request *mountmgrv1.GetMountRequest) (*mountmgrv1.GetMountResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	mount, err := f.byID(request.GetId())
	if err != nil {
		return nil, err
	}
	return &mountmgrv1.GetMountResponse{Mount: clone(mount)}, nil
}

func (f *Fake) byID(id string) (*mountmgrv1.Mount, error) {
	mount := f.mounts[id]
	if mount == nil {
		return nil, fmt.Errorf("mount %s is unknown: %w", id, errdefs.ErrNotFound)
	}
	return mount, nil
}

// ListMounts implements the contract.
func (f *Fake) ListMounts(_ context.Context, request *mountmgrv1.ListMountsRequest) (*mountmgrv1.ListMountsResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if err := f.failures["ListMounts"]; err != nil {
		return nil, err
	}
	response := &mountmgrv1.ListMountsResponse{}
	for _, mount := range f.sorted() {
		wanted := slices.ContainsFunc(mount.GetReferences(), func(r *mountmgrv1.Reference) bool {
			return (request.GetVolumeId() == "" || r.GetVolumeId() == request.GetVolumeId()) &&
				(request.GetPodUid() == "" || r.GetPod().GetUid() == request.GetPodUid())
		})
		if wanted {
			response.Mounts = append(response.Mounts, clone(mount))
		}
	}
	return response, nil
}

func (f *Fake) sorted() []*mountmgrv1.Mount {
	return slices.SortedFunc(maps.Values(f.mounts), func(a, b *mountmgrv1.Mount) int { return cmp.Compare(a.GetId(), b.GetId()) })
}

// clone keeps what callers hold apart from what the fake changes.
func clone(mount *mountmgrv1.Mount) *mountmgrv1.Mount { return proto.CloneOf(mount) }
