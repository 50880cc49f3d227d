package catalog

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/juicefs-csi/driver/libs/inventory"
)

// Indexes of pods.
const (
	roleIndex      = "role"
	uidIndex       = "uid"
	referenceIndex = "reference"
)

// Values of the role index; a role without a place holds the pods of all.
func appRole(namespace string) string { return "app/" + namespace }
func mountRole(node string) string    { return "mount/" + node }
func csiNodeRole(node string) string  { return "csi-node/" + node }

func indexers(mountNamespace string) cache.Indexers {
	isMountPod := func(pod *corev1.Pod) bool {
		return pod.Namespace == mountNamespace && inventory.IsMountPod(pod)
	}
	return cache.Indexers{
		roleIndex: onPod(func(pod *corev1.Pod) []string {
			switch {
			case isMountPod(pod):
				return []string{mountRole(""), mountRole(pod.Spec.NodeName)}
			case pod.Namespace == mountNamespace && inventory.IsCSINode(pod):
				return []string{csiNodeRole(pod.Spec.NodeName)}
			case hasClaim(pod):
				return []string{appRole(""), appRole(pod.Namespace)}
			default:
				return nil
			}
		}),
		uidIndex: onPod(func(pod *corev1.Pod) []string { return []string{string(pod.UID)} }),
		referenceIndex: onPod(func(pod *corev1.Pod) []string {
			if isMountPod(pod) {
				return inventory.References(pod)
			}
			return nil
		}),
	}
}

func onPod(values func(*corev1.Pod) []string) cache.IndexFunc {
	return func(object any) ([]string, error) {
		if pod, ok := object.(*corev1.Pod); ok {
			return values(pod), nil
		}
		return nil, nil
	}
}

func hasClaim(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// trimPod keeps what is shown: environment, probes and managed fields are most
// of a pod's size.
func trimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Pod{ObjectMeta: pod.ObjectMeta, Status: pod.Status}
	trimmed.ManagedFields = nil
	if !inventory.IsMountPod(pod) {
		trimmed.Annotations = nil
	}
	trimmed.Spec.NodeName = pod.Spec.NodeName
	trimmed.Spec.Containers = trimContainers(pod.Spec.Containers)
	trimmed.Spec.InitContainers = trimContainers(pod.Spec.InitContainers)
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			trimmed.Spec.Volumes = append(trimmed.Spec.Volumes, *v)
		case v.Ephemeral != nil: // its claim has all the rest
			kept := corev1.Volume{Name: v.Name}
			kept.Ephemeral = &corev1.EphemeralVolumeSource{}
			trimmed.Spec.Volumes = append(trimmed.Spec.Volumes, kept)
		}
	}
	return trimmed, nil
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	var trimmed []corev1.Container
	for i := range containers {
		c := &containers[i]
		trimmed = append(trimmed, corev1.Container{Name: c.Name, Image: c.Image, RestartPolicy: c.RestartPolicy})
	}
	return trimmed
}

func trimMeta(object any) (any, error) {
	if o, err := meta.Accessor(object); err == nil {
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	return object, nil
}
