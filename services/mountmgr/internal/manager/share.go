package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// directoryTimeout bounds the making of a volume's directory in a shared mount.
const directoryTimeout = 30 * time.Second

// resolveShared resolves the settings. Where a mount is shared by file system and
// another one with the same name is mounted, the volume gets a mount of its
// own, so that what people see of a mount names one file system.
func (m *Manager) resolveShared(inputs volume.Inputs) (volume.Inputs, volume.Settings, error) {
	settings, err := volume.Resolve(inputs)
	if err != nil || settings.ShareMode != volume.ShareByFileSystem {
		return inputs, settings, err
	}
	for _, candidate := range m.sharers(settings.UniqueID) {
		record := candidate.snapshot()
		if record.ShareMode != volume.ShareByFileSystem {
			continue
		}
		// Its Secret may be gone already when the mount ends; no mount joins it then.
		if secret, err := m.Secrets.Get(record.ID); err == nil && !volume.SameFileSystem(secret, inputs.Secret) {
			inputs.Defaults.ShareMode = volume.ShareByVolume
			settings, err = volume.Resolve(inputs)
			return inputs, settings, err
		}
	}
	return inputs, settings, nil
}

// recorded is the reference that the mount has at the target of wanted: an
// earlier call may have made it.
func recorded(record store.Record, wanted store.Reference) store.Reference {
	for _, reference := range record.References {
		if reference.TargetPath == wanted.TargetPath {
			return reference
		}
	}
	return wanted
}

// attach shows the reference's directory of the mount at its target. What is
// shown there already is left as it is, but for the previous devices of a lost
// mount.
func (m *Manager) attach(ctx context.Context, record store.Record, reference store.Reference, previous ...uint32) error {
	if reference.BindPath == "" {
		return kernelmount.Attach(record.MountPath, record.DeviceMinor, reference.TargetPath, reference.ReadOnly, previous...)
	}
	attached, err := kernelmount.Shows(reference.TargetPath, record.DeviceMinor, previous...)
	if err != nil || attached {
		return err
	}
	if mounted, err := kernelmount.Attached(record.MountPath, record.DeviceMinor); err != nil || !mounted {
		return errors.Join(fmt.Errorf("%s is not mounted: %w", record.MountPath, errdefs.ErrUnavailable), err)
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTimeout)
	defer cancel()
	tree, err := m.Prober.Tree(ctx, probe.TreeRequest{
		MountPath: record.MountPath, Minor: record.DeviceMinor, Directory: reference.BindPath, ReadOnly: reference.ReadOnly,
	})
	if err != nil {
		return fmt.Errorf("volume %s: %w", reference.VolumeID, err)
	}
	defer func() { _ = tree.Close() }()
	return kernelmount.AttachTree(tree, record.DeviceMinor, reference.BindPath, reference.TargetPath, previous...)
}
