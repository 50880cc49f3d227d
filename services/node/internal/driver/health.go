package driver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/node/internal/metrics"
)

// NodeGetVolumeHealth tells whether the client of a volume answers. Nothing is
// known of a volume without the path at which it is published.
func (n *Node) NodeGetVolumeHealth(
	ctx context.Context, request *csi.NodeGetVolumeHealthRequest,
) (*csi.NodeGetVolumeHealthResponse, error) {
	health := &csi.VolumeHealth{VolumeId: request.GetVolumeId()}
	switch {
	case request.GetVolumeId() == "":
		return nil, fmt.Errorf("volume id is missing: %w", errdefs.ErrInvalidArgument)
	case request.GetVolumePublishPath() == "":
		return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
	}
	stats, err := n.stats(ctx, request.GetVolumeId(), request.GetVolumePublishPath())
	if err != nil {
		return nil, err
	}
	if stats.GetAbnormal() {
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{
			Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: "ClientDoesNotAnswer", Message: stats.GetMessage(),
		}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// stats asks the mount manager, and remembers for the metrics what its answer
// says of the volume's health.
func (n *Node) stats(ctx context.Context, volumeID, path string) (*mountmgrv1.GetVolumeStatsResponse, error) {
	answered := n.Metrics.Ask(volumeID, path)
	stats, err := n.Mounter.Stats(ctx, &mountmgrv1.GetVolumeStatsRequest{VolumeId: volumeID, VolumePath: path})
	switch {
	case errdefs.IsNotFound(err):
		answered(metrics.Absent)
	case err != nil:
		answered(metrics.Unknown)
	case stats.GetAbnormal():
		answered(metrics.Abnormal)
	default:
		answered(metrics.Healthy)
	}
	return stats, err
}
