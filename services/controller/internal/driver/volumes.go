package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Lookup finds the PersistentVolume of a volume.
type Lookup func(ctx context.Context, volumeID string) (*corev1.PersistentVolume, error)

// LookupBy finds volumes by their name, which is their handle when this driver
// made them. It fails with errdefs.ErrNotFound.
func LookupBy(client kubernetes.Interface, driverName string) Lookup {
	return func(ctx context.Context, volumeID string) (*corev1.PersistentVolume, error) {
		pv, err := client.CoreV1().PersistentVolumes().Get(ctx, volumeID, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			return nil, errNoVolume(volumeID)
		}
		if err != nil {
			return nil, fmt.Errorf("get volume %s: %w", volumeID, err)
		}
		if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != driverName || pv.Spec.CSI.VolumeHandle != volumeID {
			return nil, errNoVolume(volumeID)
		}
		return pv, nil
	}
}

func errNoVolume(volumeID string) error {
	return fmt.Errorf("volume %s does not exist: %w", volumeID, errdefs.ErrNotFound)
}

// recent remembers the volumes that were made since the start. It makes answers
// better: a caller that asks twice with different sizes learns it, and a volume
// is known, and can be removed as it was made, before its PersistentVolume is.
// Directories are named by volumes, so creating one again is harmless without
// it.
type recent struct {
	mutex   sync.Mutex
	volumes map[string]made
	// order is that of creation, to forget the oldest.
	order []string
}

// made is what CreateVolume was given and answered. It holds no Secret.
type made struct {
	capacity     int64
	attributes   map[string]string
	mountOptions []string
}

// maxRecent bounds the memory, to a kilobyte or so each; external-provisioner
// stores its PersistentVolume within seconds.
const maxRecent = 10_000

// add fails with errdefs.ErrAlreadyExists when the volume has another capacity.
func (r *recent) add(volumeID string, volume made) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if known, found := r.volumes[volumeID]; found {
		if known.capacity != volume.capacity {
			return fmt.Errorf("volume %s exists with a capacity of %d bytes, not %d: %w",
				volumeID, known.capacity, volume.capacity, errdefs.ErrAlreadyExists)
		}
		return nil
	}
	if r.volumes == nil {
		r.volumes = make(map[string]made)
	}
	r.volumes[volumeID] = volume
	r.order = append(r.order, volumeID)
	if len(r.order) > maxRecent {
		delete(r.volumes, r.order[0])
		r.order = r.order[1:]
	}
	return nil
}

func (r *recent) forget(volumeID string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.volumes, volumeID)
	for i, id := range r.order {
		if id == volumeID {
			r.order = append(r.order[:i:i], r.order[i+1:]...)
			return
		}
	}
}

func (r *recent) get(volumeID string) (made, bool) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	volume, found := r.volumes[volumeID]
	return volume, found
}

// exists says whether the volume is known here or in Kubernetes.
func (c *Controller) exists(ctx context.Context, volumeID string) (bool, error) {
	if _, found := c.recent.get(volumeID); found {
		return true, nil
	}
	if c.Lookup == nil {
		return false, nil
	}
	_, err := c.Lookup(ctx, volumeID)
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
