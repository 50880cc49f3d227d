package manager

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
)

// supported fails with errdefs.ErrNotImplemented for clients that need a
// privileged pod, since a mount pod has no privilege.
func supported(settings volume.Settings) error {
	if !settings.Classic {
		return nil
	}
	return fmt.Errorf("%s, which needs a privileged mount pod: not supported: %w", settings.ClassicReason, errdefs.ErrNotImplemented)
}
