// Package inventory says which application pods use which JuiceFS volumes and
// mount pods, from Kubernetes objects alone. It does no I/O: the dashboard
// feeds it from informers, kubectl-jfs from lists.
package inventory

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// DriverName is what the CSI driver is called in PersistentVolumes unless an
	// installation says otherwise.
	DriverName = "csi.juicefs.com"
	// MountPodSelector selects mount pods by their label.
	MountPodSelector = nameLabel + "=" + mountPodName + ",!" + spareLabel

	nameLabel     = "app.kubernetes.io/name"
	mountPodName  = "juicefs-mount"
	uniqueIDLabel = "volume-id"
	// spareLabel is on mount pods that wait for a mount.
	spareLabel = "csi.juicefs.com/spare"
	appLabel   = "app"
	csiNodeApp = "juicefs-csi-node"
	// Annotations of a mount pod whose key begins so and whose value is a
	// target path are its references; the rest of the key is a hash of the path.
	referencePrefix = "juicefs-"
)

// IsMountPod says whether the pod runs a JuiceFS client for others; a spare
// mount pod does not yet.
func IsMountPod(pod *corev1.Pod) bool {
	_, spare := pod.Labels[spareLabel]
	return pod.Labels[nameLabel] == mountPodName && !spare
}

// IsCSINode says whether the pod is the node plugin.
func IsCSINode(pod *corev1.Pod) bool {
	return pod.Labels[appLabel] == csiNodeApp
}

// UniqueID is what the mount of a mount pod is shared by: a volume handle, a
// StorageClass or a file system. It is empty for other pods.
func UniqueID(mountPod *corev1.Pod) string {
	return mountPod.Labels[uniqueIDLabel]
}

// References returns the UIDs of the application pods that a mount pod serves,
// each once, in no order.
func References(mountPod *corev1.Pod) []string {
	seen := map[string]bool{}
	var uids []string
	for key, target := range mountPod.Annotations {
		if !strings.HasPrefix(key, referencePrefix) {
			continue
		}
		uid, ok := TargetPodUID(target)
		if !ok || seen[uid] {
			continue
		}
		seen[uid] = true
		uids = append(uids, uid)
	}
	return uids
}

// TargetPodUID returns the UID of the pod that a target path of kubelet belongs
// to: <kubelet-dir>/pods/<uid>/volumes/... or .../volume-subpaths/...
func TargetPodUID(target string) (string, bool) {
	if !strings.HasPrefix(target, "/") {
		return "", false
	}
	segments := strings.Split(target, "/")
	for i := 0; i+2 < len(segments); i++ {
		if segments[i] == "pods" && segments[i+1] != "" && strings.HasPrefix(segments[i+2], "volume") {
			return segments[i+1], true
		}
	}
	return "", false
}

// Volume is a JuiceFS volume of a pod.
type Volume struct {
	// Claim is the PersistentVolumeClaim in the pod's namespace.
	Claim string
	// Name is the PersistentVolume; empty while the claim is not bound.
	Name string
	// Handle is the CSI volume handle; empty while the claim is not bound.
	Handle string
}

// Lookup finds what a pod's volumes refer to. Claim and Volume return
// nil for objects that do not exist.
type Lookup struct {
	// Driver is the name of the CSI driver.
	Driver string
	Claim  func(namespace, name string) *corev1.PersistentVolumeClaim
	Volume func(name string) *corev1.PersistentVolume
	// JuiceFSClass says whether a StorageClass is provisioned by the driver, so
	// that a pod whose claim is not bound yet is seen; nil means never.
	JuiceFSClass func(name string) bool
}

// Volumes returns the JuiceFS volumes of a pod in the order of its spec.
func (l Lookup) Volumes(pod *corev1.Pod) []Volume {
	var volumes []Volume
	for i := range pod.Spec.Volumes {
		claimName := claimOf(pod, &pod.Spec.Volumes[i])
		if claimName == "" {
			continue
		}
		claim := l.Claim(pod.Namespace, claimName)
		if claim == nil {
			continue
		}
		if v, ok := l.resolve(claim); ok {
			volumes = append(volumes, v)
		}
	}
	return volumes
}

func (l Lookup) resolve(claim *corev1.PersistentVolumeClaim) (Volume, bool) {
	v := Volume{Claim: claim.Name}
	if claim.Spec.VolumeName == "" {
		class := claim.Spec.StorageClassName
		return v, class != nil && l.JuiceFSClass != nil && l.JuiceFSClass(*class)
	}
	pv := l.Volume(claim.Spec.VolumeName)
	if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != l.Driver {
		return Volume{}, false
	}
	v.Name, v.Handle = pv.Name, pv.Spec.CSI.VolumeHandle
	return v, true
}

// claimOf names the claim of a volume; a generic ephemeral volume has one that
// Kubernetes names after the pod and the volume.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	default:
		return ""
	}
}
