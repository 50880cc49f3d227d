// Package deletion removes the directories of deleted volumes. A Job in the
// mount namespace does it through a client without a kernel mount, so neither
// the controller nor the Job needs a privilege.
package deletion

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

// Volume is a volume whose directory is to go.
type Volume struct {
	// ID is the volume handle.
	ID string
	// Attributes, MountOptions, StorageClass and Claim are those of the
	// PersistentVolume.
	Attributes   map[string]string
	MountOptions []string
	StorageClass string
	Claim        volume.Object
	// Secret is the content of the publish Secret.
	Secret map[string]string
}

// clientOptions make the client of a Job: it deletes one directory and keeps
// nothing. The last option of a name counts.
const clientOptions = "rw,no-bgjob,no-usage-report,backup-meta=0,cache-dir=memory,cache-size=0,metrics=127.0.0.1:0"

// settingsFor returns the settings of a client that sees the directory, and the
// directory as the client sees it. It refuses what would remove more than one
// volume.
func settingsFor(install installation.Installation, v Volume) (volume.Settings, string, error) {
	subPath := v.Attributes[volume.AttributeSubPath]
	if err := volume.CheckSubPath(subPath); err != nil {
		return volume.Settings{}, "", fmt.Errorf("volume attribute %s: %w: %w", volume.AttributeSubPath, err, errdefs.ErrInvalidArgument)
	}
	directory := path.Clean("/" + subPath)
	if directory == "/" {
		return volume.Settings{}, "", fmt.Errorf(
			"volume attribute %s is the root of the file system, which is never removed: %w",
			volume.AttributeSubPath, errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(directory, "/.") {
		return volume.Settings{}, "", fmt.Errorf("volume attribute %s: %s is not a directory of a volume: %w",
			volume.AttributeSubPath, directory, errdefs.ErrInvalidArgument)
	}
	inputs, err := install.Inputs()
	if err != nil {
		return volume.Settings{}, "", err
	}
	inputs.VolumeID = v.ID
	inputs.Secret = v.Secret
	inputs.StorageClass = v.StorageClass
	inputs.Claim = v.Claim
	inputs.Attributes = maps.Clone(v.Attributes)
	// The client must see the directory, not be in it, and not limit it.
	delete(inputs.Attributes, volume.AttributeSubPath)
	delete(inputs.Attributes, volume.AttributeCapacity)
	inputs.MountOptions = append(slices.Clone(v.MountOptions), clientOptions)
	inputs.Config.MountPodPatch = slices.Clone(inputs.Config.MountPodPatch)
	for i, patch := range inputs.Config.MountPodPatch {
		if patch.MountOptions != nil {
			inputs.Config.MountPodPatch[i].MountOptions = append(slices.Clone(patch.MountOptions), clientOptions)
		}
	}
	settings, err := volume.Resolve(inputs.WithoutCache())
	if err == nil && settings.Classic {
		err = fmt.Errorf("remove directory %s: %s, which takes a privilege that the Job does not have; remove it by hand: %w",
			directory, settings.ClassicReason, errdefs.ErrNotImplemented)
	}
	return settings, directory, err
}

// VolumeOf is the volume of a PersistentVolume, which must be a CSI volume.
func VolumeOf(pv *corev1.PersistentVolume, secret map[string]string) Volume {
	found := Volume{
		ID:           pv.Spec.CSI.VolumeHandle,
		Attributes:   pv.Spec.CSI.VolumeAttributes,
		MountOptions: pv.Spec.MountOptions,
		StorageClass: pv.Spec.StorageClassName,
		Secret:       secret,
	}
	if claim := pv.Spec.ClaimRef; claim != nil {
		found.Claim = volume.Object{Namespace: claim.Namespace, Name: claim.Name}
	}
	return found
}
