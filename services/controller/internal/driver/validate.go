package driver

import (
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"
)

// accessModes are the modes that volumes can have.
func accessModes() []csi.VolumeCapability_AccessMode_Mode {
	return []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
	}
}

// errUnsupported are capabilities that are well formed and not ours.
var errUnsupported = errors.New("unsupported volume capability")

// checkCapabilities fails with errdefs.ErrInvalidArgument; it is errUnsupported
// too when the request itself is fine.
func checkCapabilities(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return fmt.Errorf("volume capabilities are missing: %w", errdefs.ErrInvalidArgument)
	}
	for _, capability := range capabilities {
		if capability.GetAccessType() == nil {
			return fmt.Errorf("access type of a volume capability is missing: %w", errdefs.ErrInvalidArgument)
		}
		if capability.GetBlock() != nil {
			return fmt.Errorf("%w: block volumes do not exist in JuiceFS: %w", errUnsupported, errdefs.ErrInvalidArgument)
		}
		if mode := capability.GetAccessMode().GetMode(); !slices.Contains(accessModes(), mode) {
			return fmt.Errorf("%w: access mode %s: %w", errUnsupported, mode, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// capacityOf is the capacity in bytes that a request gets.
func capacityOf(capacity *csi.CapacityRange) (int64, error) {
	required, limit := capacity.GetRequiredBytes(), capacity.GetLimitBytes()
	if required < 0 || limit < 0 {
		return 0, fmt.Errorf("capacity range is negative: %w", errdefs.ErrInvalidArgument)
	}
	if limit > 0 && required > limit {
		return 0, fmt.Errorf("capacity of %d bytes is required and limited to %d: %w", required, limit, errdefs.ErrOutOfRange)
	}
	if required == 0 {
		return limit, nil
	}
	return required, nil
}
