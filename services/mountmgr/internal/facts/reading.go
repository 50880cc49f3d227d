package facts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// reading is the reading of one volume's facts.
type reading struct {
	source  *Source
	request Request
	// left is how many requests may still be made.
	left int
	// pv and claim are known as far as it went.
	pv    *corev1.PersistentVolume
	claim *corev1.PersistentVolumeClaim
}

func (r *reading) volume(ctx context.Context) (Volume, error) {
	err := r.readVolume(ctx)
	if r.pv == nil {
		return Volume{}, err
	}
	found := Volume{Name: r.pv.Name, StorageClass: r.pv.Spec.StorageClassName}
	if reference := r.pv.Spec.ClaimRef; reference != nil {
		found.Claim = volume.Object{Namespace: reference.Namespace, Name: reference.Name}
		err = errors.Join(err, r.readClaim(ctx, reference))
	}
	if r.claim != nil {
		found.Claim.Labels, found.Claim.Annotations = r.claim.Labels, r.claim.Annotations
		if r.claim.Spec.StorageClassName != nil {
			found.StorageClass = cmp.Or(*r.claim.Spec.StorageClassName, found.StorageClass)
		}
	}
	if r.request.Class && found.StorageClass != "" {
		templates, classErr := r.classTemplatesSecret(ctx, found.StorageClass)
		found.ClassTemplatesSecret = templates
		err = errors.Join(err, classErr)
	}
	return found, err
}

// readVolume finds the PersistentVolume: by kubelet's target path, which names
// it; a dynamic one by its handle, which is its name; any other by the claims
// of the pod.
func (r *reading) readVolume(ctx context.Context) error {
	name := r.source.volumeName(r.request.TargetPath)
	if name == "" && volume.IsDynamic(r.request.Attributes) {
		name = r.request.VolumeID
	}
	if name != "" {
		if matches, err := r.tryVolume(ctx, name); matches || err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if r.request.Pod == "" {
		return fmt.Errorf("no PersistentVolume with volume handle %s: %w", r.request.VolumeID, errdefs.ErrNotFound)
	}
	return r.searchPod(ctx)
}

// tryVolume keeps a PersistentVolume that has the wanted handle.
func (r *reading) tryVolume(ctx context.Context, name string) (bool, error) {
	what := "PersistentVolume " + name
	if err := r.spend(what); err != nil {
		return false, err
	}
	pv, err := r.source.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("read %s: %w", what, native(err))
	}
	csi := pv.Spec.CSI
	if csi == nil || csi.Driver != r.source.driver || csi.VolumeHandle != r.request.VolumeID {
		return false, nil
	}
	r.pv = pv
	return true, nil
}

// searchPod looks at the volumes of the claims of the application pod.
func (r *reading) searchPod(ctx context.Context) error {
	namespace := r.request.Namespace
	if err := r.spend("pod " + namespace + "/" + r.request.Pod); err != nil {
		return err
	}
	pod, err := r.source.App(ctx, namespace, r.request.Pod)
	if err != nil {
		return err
	}
	for i := range pod.Spec.Volumes {
		source := pod.Spec.Volumes[i].PersistentVolumeClaim
		if source == nil {
			continue
		}
		claim, err := r.getClaim(ctx, namespace, source.ClaimName)
		if err != nil {
			return err
		}
		if matches, err := r.tryVolume(ctx, claim.Spec.VolumeName); matches || err != nil {
			r.claim = claim
			return err
		}
	}
	return fmt.Errorf("no claim of pod %s/%s has a PersistentVolume with volume handle %s: %w",
		namespace, r.request.Pod, r.request.VolumeID, errdefs.ErrNotFound)
}

func (r *reading) readClaim(ctx context.Context, reference *corev1.ObjectReference) error {
	if r.claim != nil {
		return nil
	}
	claim, err := r.getClaim(ctx, reference.Namespace, reference.Name)
	if err == nil && reference.UID != "" && claim.UID != reference.UID {
		return fmt.Errorf("PersistentVolumeClaim %s/%s is another one than the volume's: %w",
			reference.Namespace, reference.Name, errdefs.ErrNotFound)
	}
	if err == nil {
		r.claim = claim
	}
	return err
}

func (r *reading) getClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	what := "PersistentVolumeClaim " + namespace + "/" + name
	if err := r.spend(what); err != nil {
		return nil, err
	}
	claim, err := r.source.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, native(err))
	}
	return claim, nil
}

// classTemplatesSecret says whether the class names its Secrets by templates,
// so that each volume may have another one. A class that was deleted cannot
// tell; its volumes live on.
func (r *reading) classTemplatesSecret(ctx context.Context, name string) (bool, error) {
	what := "StorageClass " + name
	if err := r.spend(what); err != nil {
		return true, err
	}
	class, err := r.source.client.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
	if err = native(err); errdefs.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return true, fmt.Errorf("read %s: %w", what, err)
	}
	for key, value := range class.Parameters {
		if strings.HasPrefix(key, "csi.storage.k8s.io/") && strings.Contains(key, "-secret-") && strings.Contains(value, "${") {
			return true, nil
		}
	}
	return false, nil
}

func (r *reading) spend(what string) error {
	if r.left == 0 {
		return fmt.Errorf("%s is not read: %d requests were needed before it: %w", what, requestLimit, errdefs.ErrResourceExhausted)
	}
	r.left--
	return nil
}
