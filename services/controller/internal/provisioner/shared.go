package provisioner

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// shared compares the directory of pv with those of the other volumes.
func shared(pv *corev1.PersistentVolume, others []corev1.PersistentVolume) (bool, error) {
	own := directoryOf(pv)
	same := false
	for i := range others {
		other := &others[i]
		if other.Name == pv.Name || !sameFileSystem(pv, other) || beingDeleted(other) {
			continue
		}
		directory := directoryOf(other)
		same = same || directory == own
		if strings.HasPrefix(directory, own+"/") {
			return false, fmt.Errorf("directory %s holds directory %s of volume %s, which is still there: %w",
				own, directory, other.Name, errdefs.ErrFailedPrecondition)
		}
	}
	return same, nil
}

func directoryOf(pv *corev1.PersistentVolume) string {
	return volume.Directory(pv.Spec.CSI.VolumeAttributes, pv.Spec.MountOptions)
}

// sameFileSystem goes by the Secret, which is what names a file system.
func sameFileSystem(a, b *corev1.PersistentVolume) bool {
	if b.Spec.CSI == nil || b.Spec.CSI.Driver != a.Spec.CSI.Driver || b.Spec.CSI.NodePublishSecretRef == nil {
		return false
	}
	return *a.Spec.CSI.NodePublishSecretRef == *b.Spec.CSI.NodePublishSecretRef
}

// beingDeleted says whether the directory of the volume goes anyway. Of two
// volumes that are deleted at once the directory goes with either.
func beingDeleted(pv *corev1.PersistentVolume) bool {
	return pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete &&
		(pv.DeletionTimestamp != nil || pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed)
}
