package driver

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/node/internal/metrics"
)

// Keys of the volume context that kubelet adds for drivers whose CSIDriver
// object has podInfoOnMount (k8s.io/kubernetes/pkg/volume/csi).
const (
	keyPodName        = "csi.storage.k8s.io/pod.name"
	keyPodNamespace   = "csi.storage.k8s.io/pod.namespace"
	keyPodUID         = "csi.storage.k8s.io/pod.uid"
	keyServiceAccount = "csi.storage.k8s.io/serviceAccount.name"
)

// Node is the CSI Node service.
type Node struct {
	csi.UnimplementedNodeServer
	// NodeName is the name of the node in Kubernetes.
	NodeName string
	Mounter  Mounter
	// Metrics may be nil.
	Metrics *metrics.Metrics
}

// NodeGetInfo tells the node's name. There is no limit of volumes and no
// topology.
func (n *Node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.NodeName}, nil
}

// NodeGetCapabilities tells what the plugin can do besides publishing.
func (*Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}},
		})
	}
	return response, nil
}

// NodePublishVolume makes a volume visible to a pod.
func (n *Node) NodePublishVolume(ctx context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := checkTarget(request.GetVolumeId(), request.GetTargetPath()); err != nil {
		return nil, err
	}
	mode, err := accessMode(request.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	volumeContext := request.GetVolumeContext()
	err = n.Mounter.Publish(ctx, &mountmgrv1.PublishVolumeRequest{
		VolumeId:      request.GetVolumeId(),
		TargetPath:    request.GetTargetPath(),
		VolumeContext: volumeContext,
		Secrets:       request.GetSecrets(),
		MountFlags:    request.GetVolumeCapability().GetMount().GetMountFlags(),
		ReadOnly:      request.GetReadonly(),
		AccessMode:    mode,
		Pod: &mountmgrv1.PodReference{
			Namespace: volumeContext[keyPodNamespace], Name: volumeContext[keyPodName],
			Uid: volumeContext[keyPodUID], ServiceAccount: volumeContext[keyServiceAccount],
		},
	})
	n.Metrics.Published(err)
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume takes a volume away from a pod.
func (n *Node) NodeUnpublishVolume(ctx context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := checkTarget(request.GetVolumeId(), request.GetTargetPath()); err != nil {
		return nil, err
	}
	err := n.Mounter.Unpublish(ctx, &mountmgrv1.UnpublishVolumeRequest{
		VolumeId: request.GetVolumeId(), TargetPath: request.GetTargetPath(),
	})
	n.Metrics.Unpublished(request.GetTargetPath(), err)
	if err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats tells how full a volume is. A volume whose client does not
// answer has no numbers: errdefs.ErrUnavailable says why.
func (n *Node) NodeGetVolumeStats(ctx context.Context, request *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case request.GetVolumeId() == "":
		return nil, fmt.Errorf("volume id is missing: %w", errdefs.ErrInvalidArgument)
	case request.GetVolumePath() == "":
		return nil, fmt.Errorf("volume path is missing: %w", errdefs.ErrInvalidArgument)
	}
	stats, err := n.stats(ctx, request.GetVolumeId(), request.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if stats.GetAbnormal() {
		return nil, fmt.Errorf("volume %s is abnormal: %s: %w", request.GetVolumeId(), stats.GetMessage(), errdefs.ErrUnavailable)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		usage(csi.VolumeUsage_BYTES, stats.GetBytes()), usage(csi.VolumeUsage_INODES, stats.GetInodes()),
	}}, nil
}

func usage(unit csi.VolumeUsage_Unit, of *mountmgrv1.Usage) *csi.VolumeUsage {
	return &csi.VolumeUsage{Unit: unit, Available: of.GetAvailable(), Total: of.GetTotal(), Used: of.GetUsed()}
}

// checkTarget checks what every call for a target has. Whether the target is
// below the kubelet directory is for the mount manager to say, which works
// there.
func checkTarget(volumeID, target string) error {
	switch {
	case volumeID == "":
		return fmt.Errorf("volume id is missing: %w", errdefs.ErrInvalidArgument)
	case target == "":
		return fmt.Errorf("target path is missing: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(target) || filepath.Clean(target) != target:
		return fmt.Errorf("target path %s is not an absolute, clean path: %w", target, errdefs.ErrInvalidArgument)
	}
	return nil
}

// accessMode checks the capability and translates its access mode.
func accessMode(capability *csi.VolumeCapability) (mountmgrv1.AccessMode, error) {
	const none = mountmgrv1.AccessMode_ACCESS_MODE_UNSPECIFIED
	switch {
	case capability == nil:
		return none, fmt.Errorf("volume capability is missing: %w", errdefs.ErrInvalidArgument)
	case capability.GetBlock() != nil:
		return none, fmt.Errorf("JuiceFS volumes are file systems: set volumeMode: Filesystem: %w", errdefs.ErrInvalidArgument)
	case capability.GetMount() == nil:
		return none, fmt.Errorf("access type of the volume capability is missing: %w", errdefs.ErrInvalidArgument)
	}
	switch mode := capability.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:
		return mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_WRITER, nil
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		return mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_READER_ONLY, nil
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_READER_ONLY, nil
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		return mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_SINGLE_WRITER, nil
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		return mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER, nil
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		return mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER, nil
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_MULTI_WRITER, nil
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return none, fmt.Errorf("access mode of the volume capability is missing: %w", errdefs.ErrInvalidArgument)
	default:
		return none, fmt.Errorf("access mode %s is unknown to this release: %w", mode, errdefs.ErrInvalidArgument)
	}
}
