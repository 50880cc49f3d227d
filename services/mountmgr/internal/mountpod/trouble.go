package mountpod

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Trouble is why a pod does not run, or will not go on to run.
type Trouble struct {
	// Reason is kubelet's word, empty when there is no trouble.
	Reason, Message string
	// Ended tells that the pod never runs again by itself.
	Ended bool
	// Shortage tells that the node has not what the pod requests.
	Shortage bool
	// Imposed tells that kubelet has ended or refused the pod on purpose, as it
	// would the next one: eviction, shutdown of the node, shortage.
	Imposed bool
}

// imposed are the reasons of pods that kubelet has ended or refused.
func imposed() []string {
	return []string{"Evicted", "NodeShutdown", "Terminated", "Preempting", "NodeAffinity", "UnexpectedAdmissionError"}
}

// passing are the reasons of containers that kubelet goes on to try.
func passing() []string {
	return []string{
		"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "CreateContainerConfigError", "CreateContainerError",
		"RunContainerError", "CrashLoopBackOff",
	}
}

// final are the reasons of containers that no retry can help.
func final() []string { return []string{"InvalidImageName", "ErrImageNeverPull"} }

// TroubleOf reads a pod's status.
func TroubleOf(pod *corev1.Pod) Trouble {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return endOf(pod)
	}
	for _, status := range pod.Status.ContainerStatuses {
		if waiting := status.State.Waiting; waiting != nil {
			ended := slices.Contains(final(), waiting.Reason)
			if ended || slices.Contains(passing(), waiting.Reason) {
				return Trouble{Reason: waiting.Reason, Message: waiting.Message, Ended: ended}
			}
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Message != "" {
			return Trouble{Reason: condition.Reason, Message: condition.Message, Shortage: tellsShortage("", condition.Message)}
		}
	}
	return Trouble{}
}

func endOf(pod *corev1.Pod) Trouble {
	reason, message := phaseFailure(pod)
	// Kubelet's own cause is in the pod; its containers tell how they ended.
	cause := pod.Status.Reason
	shortage := tellsShortage(cause, pod.Status.Message)
	forced := shortage || slices.Contains(imposed(), cause)
	if forced {
		reason, message = cause, pod.Status.Message
	}
	return Trouble{Reason: reason, Message: message, Ended: true, Shortage: shortage, Imposed: forced}
}

// tellsShortage knows what kubelet and the scheduler say when the requests of a
// pod do not fit: "OutOfcpu", "Insufficient memory", "no set of running pods
// found to reclaim resources".
func tellsShortage(reason, message string) bool {
	return strings.HasPrefix(reason, "OutOf") ||
		strings.Contains(message, "Insufficient cpu") || strings.Contains(message, "Insufficient memory") ||
		strings.Contains(message, "to reclaim resources")
}

// WithoutRequests requests nothing. A limit without a request would request as
// much as the limit, so that each has a request of zero.
func WithoutRequests(r volume.Resources) volume.Resources {
	zero := make(map[string]string)
	for _, quantities := range []map[string]string{r.Requests, r.Limits} {
		for name := range quantities {
			zero[name] = "0"
		}
	}
	return volume.Resources{Requests: zero, Limits: r.Limits}
}
