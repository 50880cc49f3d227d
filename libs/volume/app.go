package volume

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// App is what settings may depend on of the application pod that a mount is
// made for. The hash holds none of it: the next pod joins the mount.
type App struct {
	Object

	// Resources are the sums over the containers that use the claim; empty while
	// they are not known.
	Resources Resources `json:",omitzero"`
	// Affinity, SchedulerName and Tolerations are copied with enableNodeSelector.
	Affinity      *corev1.Affinity    `json:",omitempty"`
	SchedulerName string              `json:",omitempty"`
	Tolerations   []corev1.Toleration `json:",omitempty"`
}

// AppOf gathers what is known of an application pod that uses the claim of its
// namespace.
func AppOf(pod *corev1.Pod, claim string) App {
	volumes := make(map[string]bool)
	for _, mounted := range pod.Spec.Volumes {
		if source := mounted.PersistentVolumeClaim; source != nil && source.ClaimName == claim {
			volumes[mounted.Name] = true
		}
	}
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		if slices.ContainsFunc(container.VolumeMounts, func(mount corev1.VolumeMount) bool { return volumes[mount.Name] }) {
			addQuantities(requests, container.Resources.Requests)
			addQuantities(limits, container.Resources.Limits)
		}
	}
	app := App{
		Object:   Object{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations},
		Affinity: pod.Spec.Affinity, SchedulerName: pod.Spec.SchedulerName, Tolerations: pod.Spec.Tolerations,
	}
	if len(requests)+len(limits) > 0 {
		app.Resources = Resources{Requests: quantityTexts(requests), Limits: quantityTexts(limits)}
	}
	return app
}

func addQuantities(sums, added corev1.ResourceList) {
	for name, quantity := range added {
		sum := sums[name]
		sum.Add(quantity)
		sums[name] = sum
	}
}

// hasFacts says whether more is known than which pod it is.
func (a App) hasFacts() bool {
	return len(a.Resources.Requests)+len(a.Resources.Limits)+len(a.Tolerations) > 0 || a.Affinity != nil || a.SchedulerName != ""
}
