// Package server speaks juicefs.csi.mountmgr.v1 for the manager: it checks
// requests and translates, and nothing else. Errors are mapped to codes by the
// interceptor of libs/grpcserver.
package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/version"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// statsTimeout bounds one reading of a volume's usage.
const statsTimeout = 5 * time.Second

// Server implements the service. What is not there yet answers UNIMPLEMENTED.
type Server struct {
	mountmgrv1.UnimplementedMountManagerServiceServer
	manager   *manager.Manager
	node      string
	namespace string
}

// New returns the service of one node; namespace is where its mount pods are.
func New(m *manager.Manager, node, namespace string) *Server {
	return &Server{manager: m, node: node, namespace: namespace}
}

// Handshake answers also while the manager is not ready.
func (s *Server) Handshake(_ context.Context, request *mountmgrv1.HandshakeRequest) (*mountmgrv1.HandshakeResponse, error) {
	ours := apiversion.MountManager()
	theirs := apiversion.Range{Version: request.GetVersion(), MinVersion: request.GetMinVersion()}
	if err := ours.Check(theirs); err != nil {
		return nil, err
	}
	return &mountmgrv1.HandshakeResponse{
		Version: ours.Version, MinVersion: ours.MinVersion, Release: version.Release(), NodeName: s.node,
		MaxCrashProtection: mountmgrv1.CrashProtection_CRASH_PROTECTION_CONNECTION,
		Ready:              s.manager.Ready() == nil,
	}, nil
}

// PublishVolume makes a volume visible at a target.
func (s *Server) PublishVolume(ctx context.Context, request *mountmgrv1.PublishVolumeRequest) (*mountmgrv1.PublishVolumeResponse, error) {
	if request.GetVolumeId() == "" {
		return nil, fmt.Errorf("volume_id is empty: %w", errdefs.ErrInvalidArgument)
	}
	mode, err := accessMode(request.GetAccessMode())
	if err != nil {
		return nil, err
	}
	record, created, err := s.manager.Publish(ctx, manager.PublishRequest{
		VolumeID: request.GetVolumeId(), TargetPath: request.GetTargetPath(),
		Attributes: request.GetVolumeContext(), Secret: request.GetSecrets(),
		MountOptions: request.GetMountFlags(), ReadOnly: readOnly(request), AccessMode: mode, Pod: podOf(request),
	})
	if err != nil {
		return nil, err
	}
	return &mountmgrv1.PublishVolumeResponse{Mount: s.view(record), Created: created}, nil
}

// accessMode is the name that CSI gives to the mode.
func accessMode(mode mountmgrv1.AccessMode) (store.AccessMode, error) {
	if _, known := mountmgrv1.AccessMode_name[int32(mode)]; !known || mode == mountmgrv1.AccessMode_ACCESS_MODE_UNSPECIFIED {
		return "", fmt.Errorf("access_mode is %s: set the mode of the volume: %w", mode, errdefs.ErrInvalidArgument)
	}
	return store.AccessMode(strings.TrimPrefix(mode.String(), "ACCESS_MODE_")), nil
}

func readOnly(request *mountmgrv1.PublishVolumeRequest) bool {
	switch request.GetAccessMode() {
	case mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_READER_ONLY, mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_READER_ONLY:
		return true
	default:
		return request.GetReadOnly()
	}
}

func podOf(request *mountmgrv1.PublishVolumeRequest) store.Pod {
	pod := request.GetPod()
	return store.Pod{
		Namespace: pod.GetNamespace(), Name: pod.GetName(), UID: pod.GetUid(), ServiceAccount: pod.GetServiceAccount(),
	}
}

// UnpublishVolume detaches a target.
func (s *Server) UnpublishVolume(
	ctx context.Context, request *mountmgrv1.UnpublishVolumeRequest,
) (*mountmgrv1.UnpublishVolumeResponse, error) {
	if request.GetVolumeId() == "" {
		return nil, fmt.Errorf("volume_id is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.manager.Unpublish(ctx, request.GetTargetPath()); err != nil {
		return nil, err
	}
	return &mountmgrv1.UnpublishVolumeResponse{}, nil
}

// GetVolumeStats reads usage; a client that does not answer is an abnormal
// volume, not a failed call.
func (s *Server) GetVolumeStats(
	ctx context.Context, request *mountmgrv1.GetVolumeStatsRequest,
) (*mountmgrv1.GetVolumeStatsResponse, error) {
	switch {
	case request.GetVolumeId() == "":
		return nil, fmt.Errorf("volume_id is empty: %w", errdefs.ErrInvalidArgument)
	case request.GetVolumePath() == "":
		return nil, fmt.Errorf("volume_path is empty: %w", errdefs.ErrInvalidArgument)
	}
	probeCtx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	usage, err := s.manager.Usage(probeCtx, request.GetVolumeId(), request.GetVolumePath())
	if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err)) {
		return &mountmgrv1.GetVolumeStatsResponse{Abnormal: true, Message: err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	block := usage.BlockSize
	return &mountmgrv1.GetVolumeStatsResponse{
		Bytes:  usageOf(int64(usage.Blocks)*block, int64(usage.FreeBlocks)*block),
		Inodes: usageOf(int64(usage.Inodes), int64(usage.FreeInodes)),
	}, nil
}

func usageOf(total, available int64) *mountmgrv1.Usage {
	return &mountmgrv1.Usage{Total: total, Available: available, Used: total - available}
}

// GetMount returns one mount.
func (s *Server) GetMount(_ context.Context, request *mountmgrv1.GetMountRequest) (*mountmgrv1.GetMountResponse, error) {
	record, err := s.manager.Get(request.GetId())
	if err != nil {
		return nil, err
	}
	return &mountmgrv1.GetMountResponse{Mount: s.view(record)}, nil
}

// ListMounts returns the mounts that match the request.
func (s *Server) ListMounts(_ context.Context, request *mountmgrv1.ListMountsRequest) (*mountmgrv1.ListMountsResponse, error) {
	response := &mountmgrv1.ListMountsResponse{}
	for _, record := range s.manager.List() {
		if serves(record, request.GetVolumeId(), request.GetPodUid()) {
			response.Mounts = append(response.Mounts, s.view(record))
		}
	}
	return response, nil
}

func serves(record store.Record, volumeID, podUID string) bool {
	if volumeID == "" && podUID == "" {
		return true
	}
	for _, reference := range record.References {
		if (volumeID == "" || reference.VolumeID == volumeID) && (podUID == "" || reference.Pod.UID == podUID ||
			strings.Contains(reference.TargetPath, "/pods/"+podUID+"/")) {
			return true
		}
	}
	return false
}

// WatchMounts streams the mounts and their changes.
func (s *Server) WatchMounts(_ *mountmgrv1.WatchMountsRequest, stream grpc.ServerStreamingServer[mountmgrv1.WatchMountsResponse]) error {
	present, changes, stop := s.manager.Watch()
	defer stop()
	sent := make(map[string]bool)
	for _, record := range present {
		sent[record.ID] = true
		if err := stream.Send(s.change(mountmgrv1.WatchMountsResponse_TYPE_ADDED, record)); err != nil {
			return err
		}
	}
	if err := stream.Send(&mountmgrv1.WatchMountsResponse{Type: mountmgrv1.WatchMountsResponse_TYPE_BOOKMARK}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case record, open := <-changes:
			if !open {
				return fmt.Errorf("watch reads too slowly: %w", errdefs.ErrResourceExhausted)
			}
			if err := stream.Send(s.change(kind(sent, record), record)); err != nil {
				return err
			}
		}
	}
}

// kind tells what a change is to this watcher and notes it in sent.
func kind(sent map[string]bool, record store.Record) mountmgrv1.WatchMountsResponse_Type {
	switch {
	case record.State == lifecycle.Gone:
		delete(sent, record.ID)
		return mountmgrv1.WatchMountsResponse_TYPE_DELETED
	case !sent[record.ID]:
		sent[record.ID] = true
		return mountmgrv1.WatchMountsResponse_TYPE_ADDED
	}
	return mountmgrv1.WatchMountsResponse_TYPE_MODIFIED
}

func (s *Server) change(t mountmgrv1.WatchMountsResponse_Type, record store.Record) *mountmgrv1.WatchMountsResponse {
	return &mountmgrv1.WatchMountsResponse{Type: t, Mount: s.view(record)}
}
